//! The store on a real PostgreSQL: each test has a database of its own, a copy of one that was migrated once.

mod ahead;
mod support;

mod connecting;
mod crashes;
mod history;
mod invalidation;
mod lease;
mod leases;
mod life;
mod operating;
mod races;
mod relay;
mod retention;
mod silence;
mod statements;
mod transitions;
mod views;
