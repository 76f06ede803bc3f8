"""Train a small network on handwritten digits whose labels are permuted for every task."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn


class Reader(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, width)
        self.fc2 = nn.Linear(width, width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=60, help="number of tasks")
    parser.add_argument("--epochs", type=int, default=3, help="epochs per task")
    parser.add_argument("--lr", type=float, default=3e-3, help="learning rate of Adam")
    parser.add_argument("--batch", type=int, default=32, help="batch size")
    parser.add_argument("--width", type=int, default=100, help="units in each hidden layer")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    digits = load_digits()
    images = torch.tensor(digits.data / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    model = Reader(args.width)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)

    for task in range(args.tasks):
        names = torch.randperm(10)[labels]
        for _ in range(args.epochs):
            for batch in torch.randperm(len(images)).split(args.batch):
                loss = nn.functional.cross_entropy(model(images[batch]), names[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            accuracy = (model(images).argmax(1) == names).float().mean().item()
        print(f"task {task + 1:3d}  accuracy {accuracy:.3f}", flush=True)


if __name__ == "__main__":
    main()
