"""The embedded data set: eight motions of a photographed object, as real H.264 files.

It makes training possible without a download. The videos are rendered from the photographs in
scikit-image's wheel and stored as UCF101 or Kinetics would be: `root/{train,val}/CLASS/NUMBER.mp4`,
`root/train.csv` and `root/val.csv` with lines `relative/path label_name`, and `root/classes.txt` in
the order of the labels.

The label is the motion of the object and nothing else. The distribution that videos are drawn
from excludes other cues:

- *Direction.* The second class of each pair (`right`, `down`, `counterclockwise`, `zoom_out`) is
  the first one played backwards, and the distribution of everything else in a video (drift, pan,
  flicker, noise) is symmetric in time. The validation set contains both members of every pair, so
  a model that ignores the order of frames scores at most 50 %. This is exact for rendered frames;
  the faint artifacts of H.264, which predicts from the past, are not reversed.
- *Axis.* The labeled axis moves through `speed * time`. Each other axis rests at half of
  `speed' * time'`, drawn from the same distribution (the full range would push many objects out of
  the frame). A frame taken at random therefore says little about the class: ridge regression on
  the object's position classifies 17 % of 800 unseen frames correctly (chance: 12.5 %). The index
  of the frame adds information: among first frames, which show the side where the motion begins,
  57 % are classified correctly; among middle frames, where every labeled axis is near its center,
  14 %.
- *Appearance.* Photograph, mask, colors, background, distractor and noise are independent of the
  label. Labels cycle with the number of the video, so the classes are balanced.

Train and validation share no photograph, neither as background nor as object.

Augmentation must not mirror, rotate or reverse these videos: that changes their class.
"""
