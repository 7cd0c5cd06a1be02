"""Benchmarks: every op and the training step beside eager PyTorch and `torch.compile`, in the same run.

python -m benchmarks.run                    runs all of it and writes benchmarks/results/
python -m benchmarks.report FILE.json       tables and a plot of that
python -m benchmarks.cuda                   times the ops on a GPU
python -m benchmarks.gpu_step               times training steps on a GPU: wall clock, host, device, kernels, memory
pytest benchmarks --benchmark-disable       runs each case once and checks that its implementations agree
"""
