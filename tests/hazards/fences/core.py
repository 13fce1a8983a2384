"""The fences of the loop, the buffers and the engine."""

from tests.hazards.fences import pipelines
from tests.hazards.fences.entry import Fence, Rewrite

__all__ = ["FENCES", "FILL_ENDS", "HOST_MEMORY"]

HOST_MEMORY = (
    "rows of a simulated device are host memory, filled before the constructor returns: nothing "
    "runs on torch's current stream, and each launch comes after what the host did"
)
FILL_ENDS = Rewrite(
    file="buffers/row_memory.py",
    function="RowMemory.__init__",
    begins="torch.accelerator.current_stream(",
)

FENCES = (
    Fence(
        "aio_sched/turn.py",
        "Turns._enqueue",
        "RAW: forward(n) reads what prepare(n) writes",
        pipelines.table_with_whole_forward,
        ("RAW", "tensor (2) int64"),
    ),
    Fence(
        "aio_sched/barrier.py",
        "WarBarrier.apply",
        "WAR: prepare(n+1) rewrites shared tables that forward(n) reads up to here.",
        pipelines.table_with_read_done,
        ("WAR", "tensor (4) int64"),
    ),
    Fence(
        "aio_sched/barrier.py",
        "WarBarrier.apply",
        "WAR: prepare(n+1) rewrites shared tables that forward(n) may still read.",
        pipelines.table_with_whole_forward,
        ("WAR", "tensor (4) int64"),
    ),
    Fence(
        "aio_sched/step.py",
        "Step.copy_to_host",
        "RAW: the copy reads what this stage's stream is still writing.",
        pipelines.copies_of_a_reused_tensor,
        ("RAW", "tensor (4) int64"),
    ),
    Fence(
        "aio_sched/step.py",
        "Step._fence_reused",
        "WAR: prepare(n+1) may rewrite a table that the copies of step n still read",
        pipelines.copies_of_a_reused_tensor,
        ("WAR", "tensor (4) int64"),
    ),
    Fence(
        "aio_sched/step.py",
        "Step.seal",
        "RAW: what a broken-off step has enqueued",
        pipelines.rows_of_a_broken_off_step,
        ("early_return", "relay.tokens"),
    ),
    Fence(
        "aio_sched/step.py",
        "Step.seal",
        "RAW: copy_done stands for forward too",
        pipelines.rows_used_behind_the_copy,
        ("early_return", "relay.tokens"),
    ),
    Fence(
        "aio_sched/step.py",
        "Step.seal",
        "RAW: and for what the pipeline's own streams do",
        pipelines.rows_of_a_stream_of_its_own,
        ("early_return", "relay.tokens"),
    ),
    Fence(
        "aio_sched/step.py",
        "Step.seal",
        "WAR: who is given a row by this writes",
        pipelines.rows_used_behind_the_copy,
        ("early_return", "relay.tokens"),
        Rewrite("_call(callback)"),
    ),
    Fence(
        "aio_sched/engine/pipeline.py",
        "GenerationPipeline.__init__",
        "RAW: steps read the cache's zeros",
        pipelines.engine_with_aborts,
        ("RAW", "cache.keys"),
        FILL_ENDS,
        redundant=HOST_MEMORY,
        covered_by="launch",
    ),
    Fence(
        "aio_sched/engine/pipeline.py",
        "GenerationPipeline._decode",
        "RAW: reads the token rows that the step before has stashed",
        pipelines.engine_with_aborts,
        ("RAW", "relay.tokens"),
        # What orders them is that both are on one stream.
        Rewrite(
            "tokens = step.watch((step.forward_stream, step.schedule_stream)[step.index % 2]"
            ".launch(run, inputs.table, reads=uses, writes=uses))",
            file="aio_sched/engine/pipeline.py",
            function="GenerationPipeline.forward",
            begins="tokens = step.launch(run",
        ),
    ),
    Fence(
        "aio_sched/engine/request_pipeline.py",
        "RequestPipeline._claim",
        "WAR: a next owner's prefill rewrites KV rows and the relay row",
        pipelines.engine_with_aborts,
        ("early_return", "relay.tokens"),
        Rewrite("self._unclaim(requests)"),
    ),
    Fence(
        "streams/stream.py",
        "Stream._wait_for",
        "RAW: a launch on this stream reads the value",
        pipelines.values_of_a_stream_of_its_own,
        ("RAW", "the value of _number"),
    ),
    Fence(
        "buffers/row_order.py",
        "RowOrder.launch",
        "RAW: a gather reads rows that stash or publish writes",
        pipelines.rows_used_on_two_streams,
        ("RAW", "relay.tokens"),
    ),
    Fence(
        "buffers/row_order.py",
        "RowOrder.launch",
        "WAR: stash and publish rewrite rows that a gather",
        pipelines.rows_used_on_two_streams,
        ("WAR", "relay.tokens"),
    ),
    Fence(
        "buffers/row_memory.py",
        "RowMemory.__init__",
        "RAW: our streams do not wait for torch's current stream",
        pipelines.fresh_rows,
        ("RAW", "relay.tokens"),
        redundant=HOST_MEMORY,
        covered_by="launch",
    ),
    Fence(
        "buffers/staging.py",
        "_Block.is_free",
        "WAR: the next claim rewrites memory that the last copy",
        pipelines.blocks_used_again,
        ("WAR", "tensor (4) int64"),
        Rewrite("return not self.is_claimed"),
    ),
    Fence(
        "buffers/keep_alive.py",
        "Lease.close",
        "WAR: the next owner writes what the noted uses",
        pipelines.blocks_leased_on_two_streams,
        ("early_return", "tensor (4) int64"),
        Rewrite("self._return()"),
    ),
    Fence(
        "buffers/keep_alive.py",
        "KeepAlive._release",
        "WAR: uses on other streams may still read",
        pipelines.blocks_leased_on_two_streams,
        ("early_return", "tensor (4) int64"),
        Rewrite("later = ()"),
    ),
    Fence(
        "buffers/keep_alive.py",
        "_is_over",
        "WAR: the next owner writes what a use that has not completed",
        pipelines.blocks_leased_on_two_streams,
        ("early_return", "tensor (4) int64"),
        Rewrite("return True"),
    ),
)
