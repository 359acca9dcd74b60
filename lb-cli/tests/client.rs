//! The operator's commands, each against a real controller and, where it matters, real proxies.

#[path = "client/about.rs"]
mod about;
#[path = "client/change.rs"]
mod change;
#[path = "client/drain.rs"]
mod drain;
#[path = "client/edit.rs"]
mod edit;
#[path = "client/explain.rs"]
mod explain;
#[path = "client/file.rs"]
mod file;
#[path = "client/kept.rs"]
mod kept;
#[path = "client/lb.rs"]
mod lb;
#[path = "client/past.rs"]
mod past;
#[path = "client/state.rs"]
mod state;
