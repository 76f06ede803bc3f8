"""Loops of many kinds: how losses, gradients and steps come about."""

import copy
import io

import torch
from programs_networks import fit, mlp
from torch import nn
from torch.nn import functional as F


def lbfgs(cell):
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), 0.1, max_iter=4, line_search_fn="strong_wolfe")
    cell.measure(model, optimizer)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(cell.x), cell.y)
        loss.backward()
        print(loss.item())
        return loss

    for _ in range(4):
        optimizer.step(closure)
    return model, optimizer


def accumulation(cell):
    model = mlp(nn.BatchNorm1d(12))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    cell.measure(model, optimizer)
    for step in range(12):
        (F.cross_entropy(model(cell.x), cell.y) / 3).backward()
        if step % 3 == 2:
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
    return model, optimizer


def autocast(cell):
    model = mlp()

    def loss():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.cross_entropy(model(cell.x), cell.y)

    return fit(cell, model, loss=loss)


def grad_scaler(cell):
    model, scaler = mlp(), torch.amp.GradScaler("cpu", init_scale=2.0**4, growth_interval=2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    cell.measure(model, optimizer)
    for step in range(8):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(cell.x), cell.y) * (float("inf") if step == 4 else 1)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    return model, optimizer, repr(scaler.state_dict())


def averaged(cell):
    model = mlp(nn.BatchNorm1d(12))
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    cell.measure(model, optimizer)
    for _ in range(6):
        cell.train(model, optimizer, 1)
        ema.update_parameters(model)
    torch.optim.swa_utils.update_bn([cell.x], ema)
    return model, optimizer, ema


def data_parallel(cell):
    return fit(cell, nn.DataParallel(mlp()))


def double_backward(cell):
    model = mlp(nn.Softplus())

    def loss():
        x = cell.x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return F.cross_entropy(model(x), cell.y) + grad.square().mean()

    return fit(cell, model, loss=loss)


def gradients_without_backward(cell):
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    cell.measure(model, optimizer)
    for _ in range(6):
        loss = F.cross_entropy(model(cell.x), cell.y)
        for parameter, grad in zip(
            model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
        ):
            parameter.grad = grad
        optimizer.step()
    return model, optimizer


def updates_by_hand(cell):
    model = mlp()
    for _ in range(6):
        F.cross_entropy(model(cell.x), cell.y).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
    return (model,)


def retained_graph(cell):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    cell.measure(model, optimizer)
    for _ in range(6):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(cell.x), cell.y)
        loss.backward(retain_graph=True)
        loss.square().backward(inputs=[model[0].weight], retain_graph=True)
        torch.autograd.backward([loss * 2, loss * 3])
        optimizer.step()
    return model, optimizer


def several_losses(cell):
    body, heads = nn.Sequential(nn.Linear(6, 12), nn.ReLU()), nn.ModuleList([nn.Linear(12, 3), nn.Linear(12, 1)])
    model = nn.ModuleDict({"body": body, "heads": heads})
    optimizers = [torch.optim.Adam(body.parameters()), torch.optim.SGD(heads.parameters(), 0.1)]
    cell.measure(model, optimizers, probe=False)
    for step in range(8):
        for one in optimizers:
            one.zero_grad()
        F.cross_entropy(heads[0](body(cell.x)), cell.y).backward()
        heads[1](body(cell.x)).square().mean().backward()
        optimizers[1].step()
        if step % 2:
            optimizers[0].step()
    return model, optimizers


def schedulers_and_groups(cell):
    model = mlp()
    optimizer = torch.optim.AdamW([{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].weight}], 0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=8)
    cell.measure(model, optimizer)
    for step in range(8):
        cell.train(model, optimizer, 1)
        scheduler.step()
        if step == 3:
            optimizer.add_param_group({"params": [model[2].bias]})
            scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        model[0].requires_grad_(step != 5)
    return model, optimizer, repr(scheduler.state_dict()), optimizer.step.__name__


class Own(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None, *, extra=0.0):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-group["lr"])
                    self.state[parameter]["count"] = self.state[parameter].get("count", 0) + 1
        return extra


class Nested(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        return super().step()


def own_optimizers(cell):
    left = []
    for kind in (Own, Nested):
        model = mlp()
        left += fit(cell, model, kind(model.parameters(), lr=0.05))
    print(left[1].step(extra=2.0))
    return left


def patched_step(cell):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    original = optimizer.step

    def step(*args, **kwargs):
        print("stepping")
        return original(*args, **kwargs)

    optimizer.step = step
    fit(cell, model, optimizer)
    return (model,)


def foreach_and_fused(cell):
    left = []
    for options in ({"foreach": True}, {"fused": True}, {"amsgrad": True, "foreach": False}):
        model = mlp()
        left += fit(cell, model, torch.optim.Adam(model.parameters(), 0.01, **options))
    return left


def optimizer_in_backward(cell):
    model = mlp()
    each = {p: torch.optim.SGD([p], 0.1) for p in model.parameters()}
    cell.measure(model, list(each.values()))

    def update(parameter):
        each[parameter].step()
        each[parameter].zero_grad()

    for parameter in each:
        parameter.register_post_accumulate_grad_hook(update)
    for _ in range(6):
        F.cross_entropy(model(cell.x), cell.y).backward()
    return [p.detach() for p in each]


def errors_that_are_caught(cell):
    """In the forward, the backward pass, and the step; training goes on after each."""

    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.fails = mlp(), False

        def forward(self, x):
            out = self.body(x)
            if self.fails:
                raise RuntimeError("forward")
            return out

    model = Fails()
    optimizer = torch.optim.Adam(model.parameters())
    cell.measure(model, optimizer)

    def bad():
        raise ValueError("closure")

    for step in range(9):
        model.fails = step % 3 == 1
        try:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(cell.x), cell.y)
            if step % 3 == 2:
                optimizer.step(bad)
            loss.backward()
            loss.backward()
        except (RuntimeError, ValueError) as error:
            print(type(error).__name__, str(error)[:20])
        else:
            optimizer.step()
        optimizer.step()
    return model.body, optimizer


def copies_go_on(cell):
    """Training goes on with a deep copy, then with what a file holds."""
    model = mlp(nn.BatchNorm1d(12), nn.Dropout(0.2))
    optimizer = torch.optim.Adam(model.parameters())
    cell.measure(model, optimizer)
    cell.train(model, optimizer, 3)
    both = copy.deepcopy((model, optimizer))
    cell.train(*both, steps=3)
    file = io.BytesIO()
    torch.save(both, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    cell.train(*loaded, steps=3)
    cell.train(model, optimizer, 3)
    return model, optimizer, *both, *loaded


def files_at_every_step(cell):
    model = mlp(nn.BatchNorm1d(12))
    optimizer = torch.optim.Adam(model.parameters())
    cell.measure(model, optimizer)
    for _ in range(12):
        cell.train(model, optimizer, 1)
        cell.note([model, optimizer, copy.copy(model)])
    return model, optimizer


def losses_that_are_not_finite(cell):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    cell.measure(model, optimizer)
    for scale in (1.0, float("nan"), 1.0, float("inf")):
        cell.train(model, optimizer, 1, lambda s=scale: F.cross_entropy(model(cell.x), cell.y) * s)
    return model, optimizer


def batches_of_size_zero(cell):
    model = mlp(nn.LayerNorm(12), nn.ReLU())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    cell.measure(model, optimizer)
    for size in (16, 0, 1, 0, 16):
        cell.train(model, optimizer, 1, lambda n=size: model(cell.x[:n]).sum())
    return model, optimizer


def batches_of_many_sizes(cell):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    cell.measure(model, optimizer)
    for shape in ((6,), (2, 6), (2, 3, 6), (1, 1, 1, 6), (0, 6)):
        cell.train(model, optimizer, 1, lambda s=shape: model(torch.ones(s)).sum())
    return model, optimizer


def evaluation_in_between(cell):
    model = mlp(nn.BatchNorm1d(12), nn.Dropout(0.5))
    optimizer = torch.optim.Adam(model.parameters())
    cell.measure(model, optimizer)
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad) * 2:
        cell.train(model, optimizer, 1)
        model.eval()
        with mode():
            print(model(cell.x).sum().item(), model(cell.x).requires_grad)
        model.train()
    return model, optimizer


def workers_load_the_data(cell):
    """Workers of a DataLoader are forked while hooks are in place, and know the model."""
    model = mlp()

    class Data(torch.utils.data.Dataset):
        def __len__(self):
            return 16

        def __getitem__(self, index):
            with torch.no_grad():
                noise = torch.rand(())
                return cell.x[index] + noise, cell.y[index], model(cell.x[index]).sum(), len(model[0]._parameters)

    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    cell.measure(model, optimizer)
    for _ in range(3):
        for x, y, seen, count in torch.utils.data.DataLoader(Data(), 8, shuffle=True, num_workers=2):
            print(seen.tolist(), count.tolist())
            cell.train(model, optimizer, 1, lambda x=x, y=y: F.cross_entropy(model(x), y))
    return model, optimizer
