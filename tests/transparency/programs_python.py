"""What a script does with the interpreter and its process while it trains."""

import asyncio
import atexit
import contextvars
import gc
import io
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import warnings
import weakref

import torch
from programs_networks import fit, mlp
from torch import nn
from torch.nn import functional as F


def start(cell, *between):
    model = mlp(*between)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    cell.measure(model, optimizer)
    return model, optimizer


def timeouts(cell):
    """An alarm's handler raises somewhere in a step; the script catches that and goes on."""

    class TimeUp(Exception):
        pass

    def ring(number, frame):
        raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    model, optimizer = start(cell)
    cell.train(model, optimizer, 2)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        while True:
            model(cell.x)
    except TimeUp:
        print("time is up")
    signal.signal(signal.SIGALRM, before)
    cell.train(model, optimizer, 2)
    return model, optimizer


def handlers_stay(cell):
    signal.signal(signal.SIGUSR1, lambda number, frame: print("signal", number))
    model, optimizer = start(cell)
    for _ in range(3):
        cell.train(model, optimizer, 1)
        os.kill(os.getpid(), signal.SIGUSR1)
    print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.getsignal(signal.SIGTERM))
    return model, optimizer


def in_a_thread(cell):
    left = []

    def work():
        torch.manual_seed(1)
        model, optimizer = start(cell, nn.Dropout(0.2))
        cell.train(model, optimizer)
        left.extend((model, optimizer))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    print(threading.active_count(), threading.current_thread().name)
    return left


def two_threads(cell):
    models = [start(cell) for _ in range(2)]
    turns = [threading.Semaphore(1), threading.Semaphore(0)]

    def work(number):
        for _ in range(4):
            with turns[number]:
                cell.train(*models[number], steps=1)
            turns[number].acquire()
            turns[1 - number].release()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return [each for pair in models for each in pair]


def at_exit(cell):
    model, optimizer = start(cell)
    atexit.register(lambda: print("at exit", model(cell.x).sum().item(), len(model[0]._forward_hooks)))
    cell.train(model, optimizer, 3)
    return model, optimizer


def objects_die(cell):
    """Without the collector, what the script lets go of is gone at once."""
    cell.train(*start(cell), steps=3)  # what torch imports for the first training has cycles of its own
    gc.collect()
    gc.disable()
    for steps in (1, 3, 5):
        model, optimizer = start(cell)
        cell.train(model, optimizer, steps)
        seen = [weakref.ref(thing) for thing in (model, model[0], model[0].weight, optimizer)]
        weakref.finalize(model, print, "the model is gone")
        optimizer.zero_grad()
        del model, optimizer
        print([reference() is None for reference in seen], gc.isenabled())


def collector_settings(cell):
    gc.set_threshold(123, 7, 5)
    left = fit(cell, mlp())
    print(gc.get_threshold(), gc.isenabled(), gc.get_debug(), len(gc.callbacks))
    return left


def forked(cell):
    """A child goes on training and ends in its own way."""
    model, optimizer = start(cell)
    cell.train(model, optimizer, 3)
    sys.stdout.flush()
    child = os.fork()
    if not child:
        cell.train(model, optimizer, 2)
        print("child", sum(p.double().sum().item() for p in model.parameters()), flush=True)
        os._exit(3)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    cell.train(model, optimizer, 2)
    return model, optimizer


def forked_pool(cell):
    model, optimizer = start(cell)
    cell.train(model, optimizer, 3)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        print(pool.apply(evaluated, (model, cell.x)))
    cell.train(model, optimizer, 2)
    return model, optimizer


def evaluated(model, x):
    return model(x).sum().item()


def spawned(cell):
    """A fresh process gets the model through a pickle."""
    model, optimizer = start(cell)
    cell.train(model, optimizer, 3)
    queue = multiprocessing.get_context("spawn").SimpleQueue()
    process = multiprocessing.get_context("spawn").Process(target=put, args=(queue, model, cell.x))
    process.start()
    print(queue.get())
    process.join()
    print(process.exitcode)
    return model, optimizer


def put(queue, model, x):
    queue.put((model(x).sum().item(), "homeostat.shell.run.run" in sys.modules))


def subprocesses(cell):
    model, optimizer = start(cell)
    cell.train(model, optimizer, 2)
    code = "import sys; print(sys.argv, 'homeostat' in sys.modules, sys.flags.optimize)"
    print(subprocess.run([sys.executable, "-c", code, "a"], capture_output=True, text=True, check=True).stdout)
    cell.train(model, optimizer, 2)
    return model, optimizer


def warnings_are_errors(cell):
    warnings.simplefilter("error")
    model, optimizer = start(cell)
    cell.train(model, optimizer)
    try:
        warnings.warn("of the script", stacklevel=1)
    except UserWarning as warning:
        print("caught", warning)
    print(warnings.filters[0][0])
    return model, optimizer


def warnings_are_shown(cell):
    shown = []
    warnings.showwarning = lambda message, *rest: shown.append(str(message))
    model, optimizer = start(cell)
    cell.train(model, optimizer, 2)
    for _ in range(3):
        warnings.warn("once a place", stacklevel=1)
    return model, optimizer, [text for text in shown if "homeostat" not in text]


def traced(cell):
    """The script's own trace function sees its own lines as without us."""
    lines = []

    def trace(frame, event, arg):
        if frame.f_code.co_filename == __file__:
            lines.append((event, frame.f_lineno))
        return trace

    model, optimizer = start(cell)
    sys.settrace(trace)
    inner(cell, model, optimizer)
    sys.settrace(None)
    return model, optimizer, lines


def inner(cell, model, optimizer):
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(cell.x), cell.y).backward()
        optimizer.step()


def call_profile(cell):
    calls = []

    def seen(frame, event, arg):
        if frame.f_code.co_filename == __file__:
            calls.append((event, frame.f_code.co_name))

    model, optimizer = start(cell)
    sys.setprofile(seen)
    inner(cell, model, optimizer)
    print(sys.getprofile() is seen)
    sys.setprofile(None)
    return model, optimizer, calls


def audit_and_hooks(cell):
    seen = []
    sys.excepthook = lambda kind, error, trace: print("hook", kind.__name__)
    sys.addaudithook(lambda event, args: seen.append(event) if event == "mine" else None)
    model, optimizer = start(cell)
    cell.train(model, optimizer, 2)
    sys.audit("mine")
    print(seen, sys.displayhook is sys.__displayhook__)
    return model, optimizer


def streams_replaced(cell):
    model, optimizer = start(cell)
    out, sys.stdout = sys.stdout, io.StringIO()
    cell.train(model, optimizer, 2)
    print("into the script's own stream")
    said, sys.stdout = sys.stdout.getvalue(), out
    sys.stdout.write("begun ")
    cell.train(model, optimizer, 1)
    sys.stdout.write("ended\n")
    sys.stdout.flush()
    os.write(1, b"raw\n")
    return model, optimizer, said


def logs(cell):
    stream = io.StringIO()
    logging.basicConfig(stream=stream, level=logging.DEBUG, force=True, format="%(name)s %(message)s")
    model, optimizer = start(cell)
    for _ in range(3):
        cell.train(model, optimizer, 1)
        logging.getLogger("mine").debug("step")
    return model, optimizer, stream.getvalue(), logging.root.manager.disable, len(logging.root.handlers)


def environment(cell):
    model, optimizer = start(cell)
    before = {k: v for k, v in os.environ.items() if not k.startswith("HOMEOSTAT")}
    cell.train(model, optimizer, 3)
    after = {k: v for k, v in os.environ.items() if not k.startswith("HOMEOSTAT")}
    print(before == after, os.getcwd() == os.path.dirname(os.path.abspath(sys.argv[3])), sys.path[0] != "")
    print(sorted(os.listdir(".")) == sorted(os.listdir(os.getcwd())), os.umask(0o22), __name__)
    return model, optimizer


def coroutines(cell):
    variable = contextvars.ContextVar("variable", default=0)

    async def work():
        model, optimizer = start(cell)
        for step in range(4):
            variable.set(step)
            cell.train(model, optimizer, 1)
            await asyncio.sleep(0)
            print(variable.get())
        return model, optimizer

    return asyncio.run(work())


def generators(cell):
    def steps():
        model, optimizer = start(cell)
        try:
            while True:
                cell.train(model, optimizer, 1)
                yield model, optimizer
        finally:
            print("closed")

    running = steps()
    left = [next(running) for _ in range(4)][-1]
    running.close()
    return left


def class_machinery(cell):
    """Metaclasses, class hooks, a dataclass, a module that is made by `type`."""

    class Meta(type):
        def __call__(cls, *args, **kwargs):
            print("made", cls.__name__)
            return super().__call__(*args, **kwargs)

        def __instancecheck__(cls, instance):
            print("asked for its class")
            return super().__instancecheck__(instance)

    class Base(nn.Module, metaclass=Meta):
        def __init_subclass__(cls, **kwargs):
            print("subclass", cls.__name__)
            super().__init_subclass__(**kwargs)

    def build(self):
        Base.__init__(self)
        self.body = mlp()

    kind = type("Made", (Base,), {"__init__": build, "forward": lambda self, x: self.body(x)})
    model = kind()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    cell.measure(model, optimizer)
    cell.train(model, optimizer)
    return list(model.parameters()), optimizer


def shallow_stack(cell):
    """Deep recursion of the script's own, near the limit that it has set."""
    model, optimizer = start(cell)
    sys.setrecursionlimit(400)

    def deep(number):
        return number if number == 0 else deep(number - 1)

    for _ in range(3):
        cell.train(model, optimizer, 1)
        print(deep(200))
        try:
            deep(1000)
        except RecursionError:
            print("too deep")
    return model, optimizer
