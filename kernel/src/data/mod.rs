//! PostgreSQL: pool, transactions, outbox, consumers, migrations.
