//! What orders take and leave: read from what is in force, and kept.

use lb_common::material::{MaterialId, Materials};
use tokio::sync::oneshot;

use crate::{
    controller::{Event, Refused},
    owner::Handle,
};

/// What is in force of these.
///
/// # Errors
/// If the controller is ending.
pub async fn look<const N: usize>(
    handle: &Handle,
    ids: [MaterialId; N],
) -> Result<Materials, Refused> {
    handle.look(move |controller| controller.materials_of(ids)).await
}

/// Puts them in force, and returns once they are stored, so that a controller that is killed at any moment
/// knows what the CA knows. A store that fails is no reason to go without certificates.
///
/// # Errors
/// If the controller is ending.
pub async fn keep(handle: &Handle, materials: Materials) -> Result<(), Refused> {
    let (kept, told) = oneshot::channel();
    handle.send(Event::Keep { materials, kept }).await?;
    told.await.map_err(|_| Refused::Ending)
}
