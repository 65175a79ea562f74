"""A sentence VAE in plain PyTorch, as its widespread implementations have it: the other side of the speed comparison.

Sentences are padded to the longest that there may be and come from a DataLoader, sorted by length and packed for the recurrent
networks; the loss is of all positions of the batch, those behind the end ignored; generation takes the likeliest token for all
sentences of a batch, step by step, until all have ended.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from vaekit.symbols import END, PAD


class Sentences(TorchDataset[dict[str, Tensor]]):
    """Padded sentences as the decoder's input and target, one by one."""

    def __init__(self, codes: np.ndarray) -> None:
        self.codes = codes

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        target = torch.as_tensor(self.codes[index].astype(np.int64))
        return {
            "input": torch.cat([torch.tensor([END]), target[:-1]]),
            "target": target,
            "length": (target != PAD).sum(),
        }


class PlainVAE(nn.Module):
    """Embedding, an LSTM on each side, one latent that makes the decoder's first state."""

    def __init__(self, num_tokens: int, num_latents: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_tokens, embedding)
        self.dropout = nn.Dropout(0.5)
        self.encoder = nn.LSTM(embedding, hidden, batch_first=True)
        self.decoder = nn.LSTM(embedding, hidden, batch_first=True)
        self.to_mean = nn.Linear(hidden, num_latents)
        self.to_log_variance = nn.Linear(hidden, num_latents)
        self.to_hidden = nn.Linear(num_latents, hidden)
        self.to_tokens = nn.Linear(hidden, num_tokens)
        self.num_latents = num_latents

    def forward(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        lengths, order = torch.sort(lengths, descending=True)
        embedded = self.embedding(inputs[order])
        packed = pack_padded_sequence(embedded, lengths.tolist(), batch_first=True)
        state = self.encoder(packed)[1][0][0]
        mean, log_variance = self.to_mean(state), self.to_log_variance(state)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        hidden = self.to_hidden(z).unsqueeze(0)
        packed = pack_padded_sequence(self.dropout(embedded), lengths.tolist(), batch_first=True)
        outputs = pad_packed_sequence(self.decoder(packed, (hidden, torch.zeros_like(hidden)))[0], batch_first=True)[0]
        outputs = outputs.contiguous()[torch.sort(order)[1]]
        return F.log_softmax(self.to_tokens(outputs), dim=-1), mean, log_variance

    @torch.no_grad()
    def generate(self, num: int, max_length: int) -> Tensor:
        """(num, max_length): the likeliest token at each step."""
        z = torch.randn(num, self.num_latents)
        hidden = self.to_hidden(z).unsqueeze(0)
        state, cell = hidden, torch.zeros_like(hidden)
        token = torch.full((num,), END)
        out = torch.full((num, max_length), PAD)
        running = torch.arange(num)
        for step in range(max_length):
            outputs, (state, cell) = self.decoder(self.embedding(token).unsqueeze(1), (state, cell))
            token = self.to_tokens(outputs[:, 0]).argmax(-1)
            out[running, step] = token
            on = token != END
            if not bool(on.any()):
                break
            running, token, state, cell = running[on], token[on], state[:, on], cell[:, on]
        return out


def steps(model: PlainVAE, codes: np.ndarray, batch_size: int, seed: int):
    """Trains for ever; yields after each step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(Sentences(codes), batch_size, shuffle=True, drop_last=True, generator=generator)
    step = 0
    while True:
        for batch in loader:
            log_masses, mean, log_variance = model(batch["input"], batch["length"])
            target = batch["target"][:, : int(batch["length"].max())].contiguous().view(-1)
            nll = F.nll_loss(log_masses.view(-1, log_masses.shape[-1]), target, ignore_index=PAD, reduction="sum")
            kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
            weight = min(1.0, step / 2500)
            loss = (nll + weight * kl) / batch_size
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            yield loss.item()
