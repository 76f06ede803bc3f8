"""Arithmetic with an exact verifier: chains of operations modulo a number, worked out step by step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from homeostat.core.errors import BadSetting

_STEP = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


@dataclass(frozen=True)
class Chain:
    """Evaluate a_1 op a_2 op ... a_n from left to right, modulo m, writing down every intermediate result.

    Tokens: 0 to m - 1 are the numbers, then one token for each operation, "=" and the end of the answer. A prompt is
    a_1 op a_2 ... a_n =, an answer the n - 1 intermediate results and the end. With "+" alone it is a multi-step sum.

    Args:
        modulus: m.
        terms: n.
        operations: which of "+", "-" and "*" occur.
        spare: tokens an answer may have beyond those it needs.
    """

    modulus: int = 11
    terms: int = 4
    operations: str = "+"
    spare: int = 1

    def __post_init__(self) -> None:
        known = bool(self.operations) and set(self.operations) <= set(_STEP)
        if self.modulus < 2 or self.terms < 2 or self.spare < 0 or not known:
            raise BadSetting("a chain needs modulus and terms of 2 or more and operations out of + - *")

    @property
    def equals(self) -> int:
        """The token "="."""
        return self.modulus + len(self.operations)

    @property
    def end(self) -> int:
        """The token that ends an answer; also what fills the places behind it."""
        return self.equals + 1

    @property
    def vocabulary(self) -> int:
        return self.end + 1

    @property
    def prompt_length(self) -> int:
        return 2 * self.terms

    @property
    def answer_length(self) -> int:
        """Most tokens an answer may have."""
        return self.terms + self.spare

    def prompts(self, number: int, generator: torch.Generator) -> Tensor:
        """Random prompts, int64 [number, 2 terms]."""
        numbers = torch.randint(self.modulus, (number, self.terms), generator=generator)
        signs = torch.randint(len(self.operations), (number, self.terms), generator=generator) + self.modulus
        signs[:, -1] = self.equals
        return torch.stack([numbers, signs], -1).flatten(1)

    def steps(self, prompts: Tensor) -> Tensor:
        """The intermediate results, int64 [N, terms - 1]; the last is the solution."""
        results, value = [], prompts[:, 0]
        for place in range(1, self.terms):
            value = self.apply(value, prompts[:, 2 * place - 1], prompts[:, 2 * place])
            results.append(value)
        return torch.stack(results, -1)

    def apply(self, first: Tensor, sign: Tensor, second: Tensor) -> Tensor:
        """One operation, elementwise, modulo m."""
        found = torch.stack([_STEP[name](first, second) % self.modulus for name in self.operations])
        return found.gather(0, (sign - self.modulus)[None])[0]

    def demonstrations(self, prompts: Tensor, slip: float, generator: torch.Generator) -> Tensor:
        """Worked answers, int64 [N, terms]: at each step, with probability `slip`, a random number is written instead
        of the result, and the working goes on from it. So a policy that imitates them errs, in a way it could mend."""
        written, value = [], prompts[:, 0]
        for place in range(1, self.terms):
            value = self.apply(value, prompts[:, 2 * place - 1], prompts[:, 2 * place])
            slipped = torch.rand(len(prompts), generator=generator) < slip
            value = torch.where(slipped, torch.randint(self.modulus, value.shape, generator=generator), value)
            written.append(value)
        return torch.stack([*written, torch.full_like(value, self.end)], -1)

    def given(self, answers: Tensor) -> Tensor:
        """The number each answer ends with, int64 [N]; -1 where there is none before the end, or no end.

        Args:
            answers: [N, L], whatever stands behind the first end is ignored.
        """
        ends = answers == self.end
        last = ends.to(torch.int64).argmax(-1) - 1
        token = answers.gather(-1, last.clamp(min=0)[:, None])[:, 0]
        return torch.where(ends.any(-1) & (last >= 0) & (token < self.modulus), token, -1)

    def verify(self, prompts: Tensor, answers: Tensor) -> Tensor:
        """1.0 where the answer ends with the solution, else 0.0, float32 [N]. Exact; the working is not looked at."""
        return (self.given(answers) == self.steps(prompts)[:, -1]).float()
