"""Time that writing to each installed tracker takes in the thread that trains: `python benchmarks/sinks.py`.

Writes 20 portions of 100 values (5 vitals of 20 layers at one step), as a run does about once a second.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time

os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}


def main() -> None:
    from homeostat.core.errors import BadSetting
    from homeostat.record import RunRecord
    from homeostat.shell.run.sinks import SinkRunner
    from homeostat.sinks import make_sinks, tracker_names

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ |= {"MLFLOW_TRACKING_URI": f"file:{folder}/mlruns", "MLFLOW_ALLOW_FILE_STORE": "true"}
        os.environ["TRACKIO_DIR"] = f"{folder}/trackio"
        for name in tracker_names():
            try:
                sinks = make_sinks(name)
            except BadSetting as error:
                print(f"{name}: {error}")
                continue
            runner = SinkRunner(
                sinks, RunRecord.create(None, script="bench.py"), lambda part, error: print(part, error)
            )
            began = time.perf_counter()
            runner.start()
            runner.add_rows([(0, "loss", "network", 1.0)])
            runner.write_now()
            opened, took = time.perf_counter() - began, []
            for step in range(1, 21):
                runner.add_rows([(step, f"vital-{v}", f"layer{n}", 0.5) for v in range(5) for n in range(20)])
                began, cpu = time.perf_counter(), time.thread_time()
                runner.write_now()
                took.append((time.perf_counter() - began, time.thread_time() - cpu))
            began = time.perf_counter()
            runner.stop("finished")
            wall, processor = (1e3 * statistics.median(times) for times in zip(*took, strict=True))
            print(
                f"{name}: 100 values in {wall:.1f} ms ({processor:.1f} ms of processor time), "
                f"start {opened:.1f} s, end {time.perf_counter() - began:.1f} s"
            )


if __name__ == "__main__":
    main()
