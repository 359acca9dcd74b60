//! What is told of traffic, and to whom: the access log, traces, `x-lb-explain`, and the reports to the
//! controller. All of them read plain facts; none of them knows how a request is served.

pub mod access_log;
pub mod explain;
pub mod facts;
pub mod record;
pub mod report;
pub mod trace;
