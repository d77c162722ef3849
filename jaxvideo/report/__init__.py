"""Reports for people: one HTML file each, which needs nothing from anywhere."""
