"""Trains T3D-121 without class labels, by transfer from an image network (arXiv 1711.08200).

    python train.py --config configs/t3d_transfer.py --config.data.root=/data/unlabeled
    python train.py --config configs/t3d_transfer.py:smoke     (short test, untrained teacher)
    python train.py --config configs/t3d_121.py --config.init.path=runs/THE_ABOVE \\
      --config.init.scope=student --config.init.leave_out="('fc/*',)"     (then, with labels)

Source: Diba et al., as quoted by others: DenseNet-121 trained on ImageNet sees frames, T3D sees a
clip of 32 frames, and two hidden layers predict whether both are from the same video; about 500,000
clips of YouTube-8M; SGD with Nesterov momentum 0.9, batch 32, weight decay 1e-4; rate 0.1, divided
by 10 every 30 epochs; at most 150 epochs. The paper does not give the number of frames for the
teacher; here it is 8.

Data: all lines of train.csv and val.csv must have the same label, of any name. The loss is then the
matching loss (0.69 for random guesses), and the logged accuracies have no meaning. With several
labels the cross-entropy of untrained logits is added, which trains nothing; `other_loss` in
metrics.jsonl is the matching loss alone. The teacher is torchvision's densenet121, saved by
`torch.save(model.state_dict(), "weights/densenet121.pth")`.

Number to reach: 91.7 % on UCF101 after fine-tuning, 90.3 % without the transfer (the paper's
numbers as quoted by others).
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    config = common.default_config()
    config.model.name = "t3d_121_transfer"
    config.model.dtype = "bfloat16"
    config.model.ttl = "before"
    config.model.ttl_depths = (4, 4, 4)
    config.model.teacher_frames = 8
    config.model.bn_groups = 1
    config.model.bn_momentum = 0.9
    config.init.path = "weights/densenet121.pth"
    config.init.source = "torchvision"
    config.init.leave_out = ("student/*", "matching/*", "classifier.*")
    config.epochs = 150.0
    config.batch_size = 32
    config.eval_batch_size = 32
    # Crops from the corners and the center, as in `t3d_121.py`.
    config.augment.positions = "five"
    config.data.root = "data/unlabeled"
    config.data.hint = (
        "Without data: python train.py --config configs/t3d_transfer.py:smoke runs now"
    )
    config.optim.lr = 0.1
    config.optim.schedule = "step"
    config.optim.milestones = (30.0, 60.0, 90.0, 120.0)
    config.optim.nesterov = True
    config.optim.weight_decay = 1e-4
    config.optim.frozen = ("teacher/*", "student/fc/*")
    config.protocol.clips = 1
    if common.is_smoke(argument):
        common.use_smoke(config)
        config.model.dtype = "float32"
        config.model.width = 0.125
        config.preprocessing.frames = 8
        # BatchNorm of an untrained teacher does not normalize its features.
        config.optim.lr = 0.001
        config.optim.clip_norm = 1.0
    return config
