"""The KV store: does it pay, and does it hold?"""

from panels import GREEN, RED, board, level, lines, query, row, stat, total

HITS, MISSES = "tandem_kvstore_hits_total", "tandem_kvstore_misses_total"


def hit_share():
    return f"{total(HITS)} / ({total(HITS)} + {total(MISSES)} > 0) or on() vector(0)"


GLANCE = row(
    "At a glance",
    stat("Hit share", "Share of the blocks asked for that were stored.", "percentunit", hit_share()),
    stat("Full", "Bytes stored, over what the store may hold. Eviction keeps it below 1.", "percentunit",
         f"{level('tandem_kvstore_bytes')} / ({level('tandem_kvstore_capacity_bytes')} > 0) or on() vector(0)", max=1),
    stat("Blocks", "Blocks stored.", "short", level("tandem_kvstore_blocks")),
    stat("Leases", "Requests that hold a lease: while they do, their blocks stay.", "short", level("tandem_kvstore_leases")),
    stat("Evictions", "Blocks evicted per second for lack of room.", "ops", total("tandem_kvstore_evictions_total")),
    stat("Damaged blocks", "Blocks per second that came damaged to a worker and were not used.", "ops",
         total("tandem_worker_damaged_blocks_total"), colours=(GREEN, (1e-9, RED))),
)

REUSE = row(
    "Does it pay?",
    lines("Blocks asked for", "Blocks per second that lookups found and did not find.", "ops",
          [query(total(HITS), "found"), query(total(MISSES), "not found")], stacked=True),
    lines("Hit share over time", "Share of the blocks asked for that were stored.", "percentunit", [query(hit_share(), "found")], max=1),
    lines("Prompt tokens saved", "Prompt tokens per second whose KV came from the store or from a worker's own pages.", "short",
          [query(total("vllm:prompt_tokens_by_source_total", 'job=~"$job",instance=~"$instance",source!="computed"', "source", rare=True), "{{source}}")],
          stacked=True),
    lines("Lookups", "Lookups answered per second, and those that the store did not answer in time.", "ops",
          [query(total("tandem_kvstore_lookups_total"), "answered"),
           query(total("tandem_worker_store_lookups_failed_total"), "not answered")]),
    lines("KV bytes moved", "Bytes per second that workers put into the store and pulled out of it.", "Bps",
          [query(total("tandem_worker_stored_bytes_total"), "stored"), query(total("tandem_worker_pulled_bytes_total"), "pulled")]),
    lines("Blocks found per worker", "Blocks per second that each worker asked for and the store had.", "ops",
          [query(total("tandem_worker_store_queries_total", by="instance"), "asked, {{instance}}"),
           query(total("tandem_worker_store_hits_total", by="instance"), "found, {{instance}}")]),
)

ROOM = row(
    "Does it hold?",
    lines("Stored and leased blocks", "Blocks stored, and those under at least one lease, which cannot be evicted.", "short",
          [query(level("tandem_kvstore_blocks"), "stored"), query(level("tandem_kvstore_leased_blocks"), "leased")]),
    lines("Stored bytes", "Bytes of the blocks stored, and the room there is.", "bytes", [query(level("tandem_kvstore_bytes"), "stored"), query(level("tandem_kvstore_capacity_bytes"), "room")]),
    lines("Leases over time", "Requests that hold a lease.", "short", [query(level("tandem_kvstore_leases"), "leases")]),
    lines("Blocks that went", "Evicted for lack of room, dropped by the stream itself (age or its own limit), discarded because a reader found damage.",
          "ops", [query(total("tandem_kvstore_evictions_total"), "evicted"), query(total("tandem_kvstore_lost_total"), "dropped by the stream"),
                  query(total("tandem_kvstore_discarded_total"), "discarded")]),
    lines("Checksums and pulls", "Blocks whose checksum did not hold, pulls that ended early, blocks that could not be stored.", "ops",
          [query(total("tandem_worker_damaged_blocks_total"), "damaged"), query(total("tandem_worker_pulls_failed_total"), "pulls ended early"),
           query(total("tandem_worker_unstored_blocks_total"), "not stored")]),
    lines("The bus", "Connections to NATS lost, messages lost to slow reading, messages not used, by reason.", "cps",
          [query(total("tandem_kvstore_disconnects_total"), "connection lost"), query(total("tandem_kvstore_slow_consumers_total"), "slow consumer"),
           query(total("tandem_kvstore_messages_dropped_total", by="reason", rare=True), "dropped, {{reason}}")]),
)

BOARD = board("kvstore", "KV store", "Whether stored prefixes save work, and whether the store has room for them.", [GLANCE, REUSE, ROOM])
