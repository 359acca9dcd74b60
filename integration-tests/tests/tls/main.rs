//! TLS with clients: certificates, names, versions, resumption.

mod listeners;
