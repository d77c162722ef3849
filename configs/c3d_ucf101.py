"""Fine-tunes C3D on UCF101 from Sports-1M weights (Tran et al., arXiv 1412.0767).

    python train.py --config configs/c3d_ucf101.py:1 --config.init.path=C3D.npz   (then :2, :3)
    python -m jaxvideo average runs/c3d_ucf101-*                  (mean of the three splits)
    python train.py --config configs/c3d_ucf101.py:smoke          (short test run, from scratch)

Source: the authors' solver: SGD with batches of 30; rate 0.0001, divided by 10 every 5000 of 20,000
steps; momentum 0.9, weight decay 0.0005. fc8 starts from random values, and biases have twice the
rate. `init.source` is the library that wrote the file: "c3d-caffe", "c3d-pytorch" or "mmaction2";
"" for a file of `python -m jaxvideo convert`. The last two of these libraries pad pool5
differently; their weights set this argument of the model.

Number to reach: none. The paper reports a linear SVM on fc6 for UCF101 (82.3 %, mean of three
splits), but no accuracy of this fine-tuned network.
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
    # As in Caffe, biases have twice the rate and no weight decay.
    config.optim.multipliers = (("*/bias", 2.0),)
    config.optim.no_decay = ("*/bias",)
    config.protocol.clips = 10
    if smoke:
        common.use_smoke(config)
        config.model.width = 0.125
        config.optim.lr = 0.003
    return config
