"""One peer, assembled: engine, mempool, executor, API, web, CLI."""
