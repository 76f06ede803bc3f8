"""How a program ends: by itself, by an error, by a signal, at once."""

import os
import signal
import sys
import time

from programs_python import start


def interrupt_caught(cell):
    model, optimizer = start(cell)
    try:
        for step in range(10):
            cell.train(model, optimizer, 1)
            if step == 3:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
    except KeyboardInterrupt:
        print("interrupted at", step)
    cell.train(model, optimizer, 2)
    return model, optimizer


def interrupt(cell):
    model, optimizer = start(cell)
    cell.train(model, optimizer, 3)
    print(sum(p.double().sum().item() for p in model.parameters()), flush=True)
    raise KeyboardInterrupt


def exits_inside(cell):
    model, optimizer = start(cell)
    cell.train(model, optimizer, 2)
    model[1].register_forward_hook(lambda *_: sys.exit(7))
    cell.train(model, optimizer, 3)


def exits_with_words(cell):
    cell.train(*start(cell), steps=3)
    raise SystemExit("in words")


def ends_at_once(cell):
    cell.train(*start(cell), steps=3)
    print("flushed", flush=True)
    os._exit(4)


def killed_by_itself(cell):
    cell.train(*start(cell), steps=3)
    print("flushed", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)


def fails(cell):
    cell.train(*start(cell), steps=3)
    print({}["nothing"])
