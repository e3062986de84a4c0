"""aioioth beside its peers, all in one run: ``python -m benchmarks --help``.

* `benchmarks.paths`: what is measured: two ends on a network of one kind each
* `benchmarks.measures`: TCP, round trips, connections, datagrams, in turn
* `benchmarks.scale`: a thousand stacks, beside a shell script and libvdestack
* `benchmarks.closing`: what the event loop notices when a stack closes
* `benchmarks.streams`: asyncio's streams on a stack, beside plain asyncio
* `benchmarks.turns`: who comes first, and who after whom
* `benchmarks.results`, `benchmarks.report`, `benchmarks.chart`: what came of it
"""
