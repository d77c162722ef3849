"""Constants of the embedded data set: classes, splits, frame size and photographs."""

CLASSES: tuple[str, ...] = (
    "left",
    "right",
    "up",
    "down",
    "clockwise",
    "counterclockwise",
    "zoom_in",
    "zoom_out",
)
SPLITS: tuple[str, ...] = ("train", "val")

# Part of the default folder's name and of motion.json. Increment it when a rendered pixel or an
# encoder setting changes, so that files of an older version are never used under the new name.
VERSION = 2

FRAMES = 24
FPS = 25
HEIGHT, WIDTH = 84, 112
TEXTURE = 56  # side of an object's texture in pixels

TRAIN_PHOTOS: tuple[str, ...] = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coins.png",
    "grass.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "retina.jpg",
    "rocket.jpg",
)
VAL_PHOTOS: tuple[str, ...] = (
    "cell.png",
    "coffee.png",
    "gravel.png",
    "motorcycle_left.png",
    "page.png",
    "text.png",
)
# The first hundred images of scikit-image's excerpt of Labeled Faces in the Wild are faces, 25 x 25
# gray.
TRAIN_FACES = range(75)
VAL_FACES = range(75, 100)
