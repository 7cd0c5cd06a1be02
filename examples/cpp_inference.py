"""A generator in a C++ program without Python: export it, build the program with CMake, translate a street scene.

Run `python examples/cpp_inference.py OUTPUT [CHECKPOINT] [BUILD]`. CHECKPOINT is a .safetensors file of a run or a
published latest_net_G.pth, of a generator with one style; without it an untrained one does. CMake builds in BUILD, or
build/cmake if it is not given; a program that is there is run as it is. Its source is csrc/examples/translate.cpp.
"""

import subprocess
import sys
from pathlib import Path

import torch

from cgcl_fast import compat
from cgcl_fast.data import open_dataset, read_image, to_image, to_tensor
from cgcl_fast.exporting import export_generator
from cgcl_fast.networks import ResnetGenerator

ROOT = Path(__file__).resolve().parent.parent


def program(build: Path) -> Path:
    if not (build / "translate").exists():
        torch_folder = Path(torch.__file__).parent
        subprocess.run(["cmake", "-S", ROOT, "-B", build, f"-DCGCL_TORCH={torch_folder}"], check=True)
        subprocess.run(["cmake", "--build", build, "--target", "translate"], check=True)
    return build / "translate"


def main(output: str, checkpoint: str | None = None, build: str = str(ROOT / "build" / "cmake")) -> float:
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    generator = compat.load_generator(checkpoint) if checkpoint else ResnetGenerator(ngf=16, n_blocks=3)
    to_image(open_dataset(size=128, train=False).sample_batch(1)["A"][0]).save(folder / "scene.ppm")
    scene = to_tensor(read_image(folder / "scene.ppm"))[None]
    export_generator(generator, "torchscript", folder / "generator.pt")  # it takes images of any size
    with torch.no_grad():
        expected = generator.eval()(scene)[0]
    command = [program(Path(build)), folder / "generator.pt", folder / "scene.ppm", folder / "translated.ppm"]
    subprocess.run(command, check=True)
    difference = (to_tensor(read_image(folder / "translated.ppm")) - expected).abs().max().item()
    print(f"{folder / 'translated.ppm'}: at most {difference:.4f} from Python's in [-1, 1]; a step of 8 bits is 0.0078")
    return difference


if __name__ == "__main__":
    main(*sys.argv[1:])
