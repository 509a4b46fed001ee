"""The KV store: how much work it saves, and how full it is."""

from panels import GREEN, RED, board, level, lines, query, row, stat, total

HITS, MISSES = "tandem_kvstore_hits_total", "tandem_kvstore_misses_total"


def hit_share():
    return f"{total(HITS)} / ({total(HITS)} + {total(MISSES)} > 0) or on() vector(0)"


GLANCE = row(
    "At a glance",
    stat("Hit share", "Share of the looked-up blocks that were stored.", "percentunit", hit_share()),
    stat("Fill", "Stored bytes as a share of the capacity. Eviction keeps it below 1.", "percentunit",
         f"{level('tandem_kvstore_bytes')} / ({level('tandem_kvstore_capacity_bytes')} > 0) or on() vector(0)", max=1),
    stat("Blocks", "Blocks in the store.", "short", level("tandem_kvstore_blocks")),
    stat("Leases", "Requests that hold a lease. Leased blocks are not evicted.", "short", level("tandem_kvstore_leases")),
    stat("Evictions", "Blocks evicted per second for lack of room.", "ops", total("tandem_kvstore_evictions_total")),
    stat("Damaged blocks", "Blocks per second that workers received damaged and did not use.", "ops",
         total("tandem_worker_damaged_blocks_total"), colors=(GREEN, (1e-9, RED))),
)

REUSE = row(
    "Savings",
    lines("Looked-up blocks", "Blocks per second that lookups found, and that they did not find.", "ops",
          [query(total(HITS), "found"), query(total(MISSES), "not found")], stacked=True),
    lines("Hit share over time", "Share of the looked-up blocks that were stored.", "percentunit", [query(hit_share(), "found")], max=1),
    lines("Prompt tokens saved", "Prompt tokens per second whose KV was in the store or in a worker's own pages.", "short",
          [query(total("vllm:prompt_tokens_by_source_total", 'job=~"$job",instance=~"$instance",source!="computed"', "source", rare=True), "{{source}}")],
          stacked=True),
    lines("Lookups", "Lookups per second that the store replied to, and those that failed or timed out.", "ops",
          [query(total("tandem_kvstore_lookups_total"), "replied"),
           query(total("tandem_worker_store_lookups_failed_total"), "failed")]),
    lines("KV bytes moved", "Bytes per second that workers put into the store and received from it.", "Bps",
          [query(total("tandem_worker_stored_bytes_total"), "stored"), query(total("tandem_worker_pulled_bytes_total"), "received")]),
    lines("Blocks found per worker", "Blocks per second that each worker looked up, and that were stored.", "ops",
          [query(total("tandem_worker_store_queries_total", by="instance"), "looked up, {{instance}}"),
           query(total("tandem_worker_store_hits_total", by="instance"), "found, {{instance}}")]),
)

ROOM = row(
    "Room",
    lines("Stored and leased blocks", "Blocks in the store, and those under at least one lease, which cannot be evicted.", "short",
          [query(level("tandem_kvstore_blocks"), "stored"), query(level("tandem_kvstore_leased_blocks"), "leased")]),
    lines("Stored bytes", "Bytes of the stored blocks, and the capacity.",
          "bytes", [query(level("tandem_kvstore_bytes"), "stored"), query(level("tandem_kvstore_capacity_bytes"), "capacity")]),
    lines("Leases over time", "Requests that hold a lease.", "short", [query(level("tandem_kvstore_leases"), "leases")]),
    lines("Removed blocks", "Evicted for lack of room, expired by the stream's age or size limit, discarded because a reader found damage.",
          "ops", [query(total("tandem_kvstore_evictions_total"), "evicted"), query(total("tandem_kvstore_expired_total"), "expired"),
                  query(total("tandem_kvstore_discarded_total"), "discarded")]),
    lines("Damage and failed transfers", "Blocks with a wrong checksum, transfers that ended early, failed puts.", "ops",
          [query(total("tandem_worker_damaged_blocks_total"), "damaged"), query(total("tandem_worker_pulls_failed_total"), "transfers ended early"),
           query(total("tandem_worker_put_failed_blocks_total"), "failed puts")]),
    lines("The bus", "Lost connections to NATS, messages lost to slow reading, and dropped messages, by reason.", "cps",
          [query(total("tandem_kvstore_disconnects_total"), "connection lost"), query(total("tandem_kvstore_slow_consumers_total"), "slow consumer"),
           query(total("tandem_kvstore_messages_dropped_total", by="reason", rare=True), "dropped, {{reason}}")]),
)

BOARD = board("kvstore", "KV store", "Whether stored prefixes save work, and whether the store has room for them.", [GLANCE, REUSE, ROOM])
