"""Runs a function on several gloo processes and gives back what each returned."""

import io
import multiprocessing
import os
import socket
import tempfile
from pathlib import Path

import torch
from torch import distributed as dist
from torch.multiprocessing import start_processes

multiprocessing.set_forkserver_preload(
    ["torch", "torch.distributed.fsdp", "torch.distributed.checkpoint", "torch._dynamo"]
)


def run_on_ranks(function, ranks, *args):
    """``[function(rank, *args) for each rank]``, each in its own process of one gloo world.

    The function is importable by name and returns what ``torch.save`` can write.
    """
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        handed = (ranks, port, folder, function, args)
        start_processes(_enter, handed, nprocs=ranks, start_method="forkserver")
        return [
            torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(ranks)
        ]


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _enter(rank, ranks, port, folder, function, args):
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(ranks)
    )
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    try:
        result = function(rank, *args)
        buffer = io.BytesIO()
        torch.save(result, buffer)
        (Path(folder) / f"{rank}.pt").write_bytes(buffer.getvalue())
        dist.barrier()
    finally:
        dist.destroy_process_group()
