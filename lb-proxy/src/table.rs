//! The routing table: one snapshot, compiled. Immutable; what must outlive a version, live backends,
//! retry budgets and counters, is shared with the next.

mod backend_set;
mod backend_tls;
mod challenges;
mod listener;
mod pick;
mod route;
mod routing;
mod slots;
mod tcp;
mod tls;

pub use backend_set::BackendSet;
pub use challenges::Challenges;
pub use listener::{CountedClient, CountedConnection, Listener, Presence, Service};
pub use pick::Pick;
pub use route::{Route, Split, Target};
pub use routing::{Built, RoutingTable, View};
pub use tcp::{Taker, Tcp};
pub use tls::{ListenerTls, Unusable};
