"""One interaction level: the primary attends to the latents of all active experts.

Letters: B rows, T tokens of the primary, S its tokens with those in the cache, N tokens of all peers, D width of an
expert, R latent size, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class UpProjection(nn.Linear):
    """The way back from the shared space to an expert: it starts at exactly zero."""

    def reset_parameters(self) -> None:
        """Set weight and bias to zero."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class InteractionLevel(nn.Module):
    """Cross-attention of the primary to its own latents and those of its peers, in a shared space.

    With `u_m = W_down,m LN_m(h_m)`, the primary becomes `h + W_up LN(o + u)` where `o` attends from `u` of the primary
    to all `u_m`. `W_up` starts at zero, so that a new mixture computes exactly what its primary computes.

    Args:
        widths: D of each expert.
        latent_size: R.
        num_heads: H.
    """

    def __init__(self, widths: Sequence[int], latent_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_in = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.down = nn.ModuleList(nn.Linear(width, latent_size) for width in widths)
        self.up = nn.ModuleList(UpProjection(latent_size, width) for width in widths)
        self.query = nn.Linear(latent_size, latent_size)
        self.key = nn.Linear(latent_size, latent_size)
        self.value = nn.Linear(latent_size, latent_size)
        self.output = nn.Linear(latent_size, latent_size)
        self.norm_out = nn.LayerNorm(latent_size)

    def latents(self, expert: int, hidden: Tensor) -> Tensor:
        """Bring the states of an expert into the shared space.

        Args:
            expert: Index of the expert.
            hidden: Its hidden states [B, T, D], of any type and on any device.

        Returns:
            Latents [B, T, R] in the type of this level and on its device.
        """
        weight = self.query.weight
        latents: Tensor = self.down[expert](self.norm_in[expert](hidden.to(weight.device, weight.dtype)))
        return latents

    def keys_values(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, N, R/H] of latents [B, N, R]."""
        return self._heads(self.key(latents)), self._heads(self.value(latents))

    def update(self, expert: int, latents: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Compute what the primary adds to its hidden states.

        Args:
            expert: Index of the primary.
            latents: Its latents [B, T, R].
            keys: Keys of all peers and of its own tokens [B, H, N + S, R/H].
            values: Their values.
            mask: Which of them each token sees [B, T, N + S]; at least one.

        Returns:
            The update [B, T, D], in the type of this level.
        """
        queries = self._heads(self.query(latents))
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask.unsqueeze(1))
        mixed = self.output(attended.transpose(1, 2).flatten(-2))
        update: Tensor = self.up[expert](self.norm_out(mixed + latents))
        return update

    def _heads(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def num_level_parameters(widths: Sequence[int], latent_size: int) -> int:
    """Number of parameters of one interaction level.

    Args:
        widths: D of each expert.
        latent_size: R.

    Returns:
        The sum over experts of 2 D R + R (down), + D (up), + 2 D (norm), plus 4 R² + 4 R (attention) and 2 R (norm).
    """
    experts = sum(2 * width * latent_size + latent_size + 3 * width for width in widths)
    return experts + 4 * latent_size**2 + 6 * latent_size
