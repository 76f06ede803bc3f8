"""Train a small classifier with a common mistake: it outputs softmax probabilities, but the loss expects logits."""

import torch
from torch import nn


def main() -> None:
    torch.manual_seed(0)
    inputs, targets = torch.randn(2000, 20), torch.randint(0, 5, (2000,))
    inputs[range(2000), targets] += 3
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5), nn.Softmax(dim=1))
    optimizer = torch.optim.Adam(model.parameters())
    for epoch in range(10):
        for items in torch.randperm(2000).split(64):
            loss = nn.functional.cross_entropy(model(inputs[items]), targets[items])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}  loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
