"""Any Hugging Face causal language model as a policy of the rollout engine; imports transformers only when used.

Sampling, proofs and continuous batching are ours; the library gives logits, hidden states and a cache. Models of the
Llama family need none of this: `folder` reads them into our own decoder. `library` makes others trainable in leases.
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import CommonweightError


@dataclass(slots=True)
class LibraryCache:
    """The library's cache, and which columns of each row are real: ``(rows, length)``."""

    keys: Any
    real: Tensor


class TransformersPolicy:
    """Generation with a model of the library in evaluation mode."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        # The library renames its argument and its answer (5.24).
        self._cache = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"

    @staticmethod
    def load(folder: Path) -> TransformersPolicy:
        """A local folder, float32. Raises E1008 without the library, E1009 when it cannot load the folder."""
        return TransformersPolicy(TransformersPolicy.loaded(folder)[0])

    @staticmethod
    def loaded(folder: Path) -> tuple[Any, set[str]]:
        """The library's model of a folder, and the names of weights that the folder lacks. Raises as `load`."""
        try:
            from transformers import AutoModelForCausalLM
            from transformers.utils import logging
        except ImportError as error:
            raise CommonweightError(
                "E1008", "transformers is not installed", "pip install 'commonweight[hf]'"
            ) from error
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            model, report = AutoModelForCausalLM.from_pretrained(
                folder,
                local_files_only=True,
                dtype=torch.float32,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        except Exception as error:  # the library fails in many ways, and all mean the same to a person
            raise CommonweightError(
                "E1009", f"{folder}: {error}", "a complete local folder is needed"
            ) from error
        return model.eval(), set(report["missing_keys"])

    @property
    def vocab(self) -> int:
        """Number of tokens."""
        return int(self.model.config.get_text_config().vocab_size)

    @property
    def dim(self) -> int:
        """Width of the hidden states."""
        return int(self.model.config.get_text_config().hidden_size)

    @torch.inference_mode()
    def prefill(self, tokens: Tensor, start: Tensor) -> tuple[LibraryCache, Tensor, Tensor]:
        """As `decoder.Llama.prefill`."""
        real = (torch.arange(tokens.shape[1]) >= start[:, None]).long()
        out = self._run(tokens, real, (real.cumsum(1) - 1).clamp_min(0), None)
        return LibraryCache(out[self._cache], real), out.logits[:, -1], out.hidden_states[-1][:, -1]

    @torch.inference_mode()
    def decode(self, cache: LibraryCache, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """As `decoder.Llama.decode`."""
        position = cache.real.sum(1, keepdim=True)
        cache.real = torch.cat((cache.real, torch.ones_like(position)), dim=1)
        out = self._run(tokens[:, None], cache.real, position, cache.keys)
        cache.keys = out[self._cache]
        return out.logits[:, -1], out.hidden_states[-1][:, -1]

    def keep(self, cache: LibraryCache, rows: Tensor) -> None:
        """Select rows of a cache, repeats allowed."""
        with torch.inference_mode():
            cache.keys.batch_select_indices(rows)
            cache.real = cache.real[rows]

    @torch.inference_mode()
    def hidden_states(self, tokens: Tensor) -> Tensor:
        """One teacher-forced pass over right-filled tokens."""
        every = torch.ones_like(tokens)
        hidden: Tensor = self._run(tokens, every, every.cumsum(1) - 1, None).hidden_states[-1]
        return hidden

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states."""
        out: Tensor = self.model.get_output_embeddings()(hidden)
        return out

    def _run(self, tokens: Tensor, mask: Tensor, position: Tensor, cache: Any) -> Any:
        return self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=position,
            use_cache=True,
            output_hidden_states=True,
            **{self._cache: cache},
        )
