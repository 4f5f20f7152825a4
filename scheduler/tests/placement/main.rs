//! What placement promises, one situation for each promise.

#[path = "../support/mod.rs"]
mod support;

mod agents;
mod order;
mod work;

use croft_scheduler::fleet::FleetView;
use croft_scheduler::place::ReadyStage;
use support::decide;

fn check(fleet: &FleetView, stages: &[ReadyStage], expect: &[&str]) {
    assert_eq!(decide(fleet, stages), expect);
}
