"""A training script written for the published CUT code, with one import changed.

Run `python examples/published_script.py [STEPS]`: on the built-in street scenes, in place of that code's data loader.
"""

import sys
from itertools import chain, islice, repeat
from types import SimpleNamespace

import torch
from torch import nn

from cgcl_fast.compat import PatchNCELoss, PatchSampleF  # before: of models.patchnce and models.networks
from cgcl_fast.data import build_loader, open_dataset

opt = SimpleNamespace(batch_size=2, lr=2e-4, nce_T=0.07, lambda_NCE=1.0, num_patches=128, nce_layers=[0, 3, 5])
opt.nce_includes_all_negatives_from_minibatch = False


class NetG(nn.Module):
    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(3, 32, 7, 1, 3), nn.InstanceNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1)]
        layers += [nn.InstanceNorm2d(64), nn.ReLU(), nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.InstanceNorm2d(32)]
        self.model = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(32, 3, 7, 1, 3), nn.Tanh())

    def forward(self, x, layers=(), encode_only=False):
        feats = [x := layer(x) for layer in self.model[: max(layers) + 1 if encode_only else None]]
        return [feats[i] for i in layers] if encode_only else x


def main(steps=30):
    netG, netF, losses = NetG(), PatchSampleF(use_mlp=True, init_type="xavier", nc=64), []
    netD = nn.Sequential(nn.Conv2d(3, 32, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(32, 1, 4, 2, 1))
    criterionNCE = [PatchNCELoss(opt) for _ in opt.nce_layers]
    netF.create_mlp(netG(torch.zeros(1, 3, 64, 64), opt.nce_layers, encode_only=True))
    optimizers = [torch.optim.Adam(net.parameters(), opt.lr, (0.5, 0.999)) for net in (netG, netF, netD)]
    dataset = repeat(build_loader(open_dataset(size=64), batch_size=opt.batch_size))
    for data in islice(chain.from_iterable(dataset), steps):
        real_A, real_B, fake_B = data["A"], data["B"], netG(data["A"])
        optimizers[2].zero_grad()
        (((netD(real_B) - 1) ** 2).mean() + (netD(fake_B.detach()) ** 2).mean()).mul(0.5).backward()
        optimizers[2].step()
        feat_q, feat_k = (netG(image, opt.nce_layers, encode_only=True) for image in (fake_B, real_A))
        feat_k_pool, sample_ids = netF(feat_k, opt.num_patches, None)
        feat_q_pool, _ = netF(feat_q, opt.num_patches, sample_ids)
        loss_NCE = sum(c(q, k).mean() for c, q, k in zip(criterionNCE, feat_q_pool, feat_k_pool, strict=True)) / 3
        for optimizer in optimizers[:2]:
            optimizer.zero_grad()
        (((netD(fake_B) - 1) ** 2).mean() + opt.lambda_NCE * loss_NCE).backward()
        for optimizer in optimizers[:2]:
            optimizer.step()
        losses.append(loss_NCE.item())
        print("iteration", len(losses), "NCE", losses[-1])
    return losses


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
