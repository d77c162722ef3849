"""C3D fine-tuned on UCF101 from Sports-1M weights (Tran et al., arXiv 1412.0767).

    python train.py --config configs/c3d_ucf101.py:1 --config.init.path=C3D.npz   (then :2, :3)
    python -m jaxvideo average runs/c3d_ucf101-*                  (the mean over the splits)
    python train.py --config configs/c3d_ucf101.py:smoke          (runs now, from scratch)

Source: the authors' solver: SGD with batches of 30 at 0.0001, divided by 10 every 5000 of
20,000 steps, momentum 0.9, decay 0.0005; fc8 starts fresh, biases at twice the rate.
`init.source` says whose file it is ("c3d-caffe", "c3d-pytorch", "mmaction2"; "" for one that
`python -m jaxvideo convert` wrote); the ports' two bring their own padding of pool5.

Number to reach: the paper tests its UCF101 numbers with a linear SVM on fc6 (82.3 %, mean of
three splits), not with this fine-tuned softmax, for which it names none.
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    split, smoke = common.read_split(argument)
    config = common.default_config()
    config.model.name = "c3d"
    config.model.bn_groups = 1
    config.model.bn_momentum = 0.9
    config.init.path = "weights/c3d_sports1m.npz"
    config.init.source = "c3d-caffe"
    config.init.leave_out = ("fc8/*",)
    config.epochs = 20.0
    config.epoch_steps = 1000
    config.batch_size = 30
    config.eval_batch_size = 30
    common.use_split(config, "data/ucf101", split)
    config.data.hint = "Without data: python train.py --config configs/c3d_ucf101.py:smoke runs now"
    config.optim.lr = 1e-4
    config.optim.schedule = "step"
    config.optim.milestones = (5.0, 10.0, 15.0)
    config.optim.weight_decay = 5e-4
    # Caffe's: biases at twice the rate, and without decay.
    config.optim.multipliers = (("*/bias", 2.0),)
    config.optim.no_decay = ("*/bias",)
    config.protocol.clips = 10
    if smoke:
        common.use_smoke(config)
        config.model.width = 0.125
        config.optim.lr = 0.003
    return config
