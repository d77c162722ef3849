"""Labeled videos from a data folder in any of the published annotation forms (`forms.FORMS`)."""
