//! Sockets, and what their bytes go through. Knows nothing of HTTP or of the routing table.

pub mod block;
pub mod count;
pub mod files;
pub mod hot;
pub mod listen;
pub mod lookout;
pub mod outbox;
pub mod pipe;
pub mod shake;
pub mod socket;
pub mod stream;
pub mod timer;
pub mod tls;
pub mod watch;
