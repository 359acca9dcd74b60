//! The keys of TLS tickets: all proxies have the same ones, so that a client resumes its session with
//! whichever it meets. They are replaced again and again, so that who gets hold of one can read
//! little.
//!
//! The next one is with all proxies long before it is used. See [`lb_tls::tickets::Keys`].

use std::time::Duration;

use aws_lc_rs::rand;
use lb_common::{
    clock,
    material::{MaterialId, Materials},
    secret::Secret,
};
use lb_tls::tickets::{KEY, Keys, LIFETIME};

use crate::{
    controller::{Controller, Event},
    owner::Handle,
    vault::Found,
};

/// A key seals for so long.
const TURN: Duration = Duration::from_secs(LIFETIME as u64 / 2);
/// That do not seal any more: their tickets may be used for two turns.
const FORMER: usize = 3;
/// How often the time is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// Replaces the keys when their turn is over, for ever.
pub async fn rotate(handle: Handle) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let look = |controller: &Controller| renewed(controller.materials(), clock::wall());
        match handle.look(look).await {
            Ok(None) => {}
            Ok(Some(materials)) => {
                let found = Found { materials, ..Found::default() };
                if handle.send(Event::Found(found)).await.is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

/// The keys that follow those that are there, if there are none or their turn is over.
pub fn renewed(materials: &Materials, wall: Duration) -> Option<Materials> {
    let id = MaterialId::tickets();
    let next = next(materials.get(&id), wall)?;
    Some(Materials::unit(id, next))
}

/// What follows these keys, if their turn is over.
fn next(now: Option<&Secret>, wall: Duration) -> Option<Secret> {
    let now = now.and_then(|now| Keys::read(now.reveal())).unwrap_or_default();
    let keys = match &now.keys[..] {
        // A clock that went back is no reason to wait for it.
        [_, _, ..] if (now.since..now.since + TURN).contains(&wall) => return None,
        [first, second, former @ ..] => {
            let former = former.iter().copied().take(FORMER - 1);
            [*second, fresh()?, *first].into_iter().chain(former).collect()
        }
        _ => vec![fresh()?, fresh()?],
    };
    Some(Secret::new(Keys { since: wall, keys }.to_bytes()))
}

fn fresh() -> Option<[u8; KEY]> {
    let mut key = [0; KEY];
    rand::fill(&mut key).ok()?;
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(secret: &Secret) -> Vec<[u8; KEY]> {
        Keys::read(secret.reveal()).expect("they are keys").keys
    }

    #[test]
    fn the_next_key_is_known_for_a_turn_before_it_seals_and_three_turns_after() {
        let mut wall = Duration::from_secs(1_000_000);
        let mut now = next(None, wall).expect("there are none");
        let followed = keys(&now)[1];
        for expected in [Some(0), Some(2), Some(3), Some(4), None] {
            assert_eq!(next(Some(&now), wall + TURN - Duration::from_secs(1)), None);
            wall += TURN;
            now = next(Some(&now), wall).expect("its turn is over");
            assert_eq!(keys(&now).iter().position(|key| *key == followed), expected);
        }
        assert!(next(Some(&now), Duration::from_secs(5)).is_some(), "the clock went back");
    }

    #[test]
    fn what_is_no_key_is_replaced() {
        for broken in [&b""[..], b"12345", &[0; 8 + KEY]] {
            let made = next(Some(&Secret::new(broken.to_vec())), Duration::from_secs(1));
            assert_eq!(keys(&made.expect("new ones are made")).len(), 2);
        }
    }
}
