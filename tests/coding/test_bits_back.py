import numpy as np
import pytest
import torch

from vaekit.coding.ans import LaneCoder
from vaekit.coding.bits_back import BitsBack
from vaekit.errors import ConfigError
from vaekit.likelihoods import Bernoulli
from vaekit.networks import MLP
from vaekit.posteriors import DiagonalNormal
from vaekit.priors import StandardNormal
from vaekit.vae import VAE


def model(seed=0, size=30, latents=3):
    torch.manual_seed(seed)
    posterior = DiagonalNormal(MLP(size, [16], input_range=(0, 1)), latents)
    return VAE(prior=StandardNormal(latents), posterior=posterior, likelihood=Bernoulli(MLP(latents, [16]), [size]))


def trained():
    vae = model()
    rng = np.random.default_rng(0)
    protos = rng.random((4, 30)) < 0.5
    x = (protos[rng.integers(0, 4, 3000)] ^ (rng.random((3000, 30)) < 0.05)).astype(np.int64)
    optimizer, data = torch.optim.Adam(vae.parameters(), 5e-3), torch.from_numpy(x).float()
    for step in range(400):
        batch = data[torch.arange(step * 128, step * 128 + 128) % 3000]
        optimizer.zero_grad()
        (-elbo(vae, batch, 1)).backward()
        optimizer.step()
    return vae, x


def elbo(vae, x, num_samples):
    q = vae.posterior(x)
    z = q.rsample((num_samples,))
    return (vae.likelihood(z).log_prob(x) + vae.prior().log_prob(z) - q.log_prob(z)).mean()


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 200])
@pytest.mark.parametrize("seed", [0, 1])
def test_what_goes_in_comes_out(count, seed):
    codec = BitsBack.of(model(seed))
    x = np.random.default_rng(seed).integers(0, 2, (count, 30))
    for value in (x, np.zeros_like(x), np.ones_like(x)):
        message = codec.compress(value, num_lanes=5)
        assert np.array_equal(codec.decompress(message, count, num_lanes=5), value)


def test_the_message_is_as_long_as_the_bound_says():
    vae, x = trained()
    codec = BitsBack.of(vae)
    coder = codec.encode(x, LaneCoder(16))
    net = 8 * (coder.num_bytes - LaneCoder(16).num_bytes) - 32 * coder.borrowed
    with torch.no_grad():
        bound = -elbo(vae, torch.from_numpy(x).float(), 100).item() * 3000 / np.log(2)
    assert abs(net / bound - 1) < 0.01
    assert np.array_equal(codec.decompress(coder.to_bytes(), 3000, 16), x)


def test_foreign_values_and_models_are_refused():
    codec = BitsBack.of(model())
    with pytest.raises(ConfigError, match="0 and 1"):
        codec.compress(np.full((1, 30), 2))
    vae = model()
    vae.likelihood = torch.nn.Identity()
    with pytest.raises(ConfigError, match="Identity"):
        BitsBack.of(vae)
