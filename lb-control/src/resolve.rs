//! What the fleet is to run: what was asked for, who is there to serve it, and what was decided about
//! them. Pure, and takes as long as what changed is large.

use std::sync::Arc;

use lb_common::{
    map::changes,
    material::Materials,
    snapshot::{Members, Snapshot, UnhealthyBackends},
    spec::DesiredState,
};
use lb_proto::update::Content;

/// `former` is what was resolved last.
pub fn resolve(
    former: &Snapshot,
    desired: DesiredState,
    unhealthy: UnhealthyBackends,
    materials: Materials,
) -> Content {
    let members = members(former, &desired);
    Content { desired, members, unhealthy, materials }
}

/// The backends that the state names itself.
fn members(former: &Snapshot, desired: &DesiredState) -> Members {
    let mut members = former.members.clone();
    for change in changes(&former.desired.backend_sets, &desired.backend_sets) {
        match change.new.filter(|set| !set.backends.is_empty()) {
            Some(set) if members.get(change.key).is_some_and(|old| **old == set.backends) => {}
            Some(set) => {
                members.insert(change.key.clone(), Arc::new(set.backends.clone()));
            }
            None => {
                members.remove(change.key);
            }
        }
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::tests::state;

    #[test]
    fn members_are_those_that_a_look_at_everything_finds() {
        let states = [
            "backend_sets = [{ name = 'a', backends = [{ address = '1.1.1.1:1' }] }, { name = 'b' }]",
            "backend_sets = [{ name = 'a', backends = [{ address = '1.1.1.1:1', weight = 2 }] }]",
            "backend_sets = [{ name = 'a' }, { name = 'b', backends = [{ address = '1.1.1.1:9' }] }]",
            "backend_sets = [{ name = 'a', balance = 'random' }]",
            "",
        ];
        for from in states {
            for to in states {
                let Content { desired, members, .. } = Content::of(state(from));
                let former = Snapshot { desired, members, ..Snapshot::default() };
                let (unhealthy, materials) = <_>::default();
                let resolved = resolve(&former, state(to), unhealthy, materials);
                assert_eq!(resolved.members, Content::of(state(to)).members, "{from} {to}");
            }
        }
    }

    #[test]
    fn who_is_there_is_the_same_when_only_what_is_asked_of_them_changes() {
        let one = "backends = [{ address = '1.1.1.1:1' }]";
        let Content { desired, members, .. } =
            Content::of(state(&format!("backend_sets = [{{ name = 'a', {one} }}]")));
        let former = Snapshot { desired, members, ..Snapshot::default() };
        let next = state(&format!("backend_sets = [{{ name = 'a', balance = 'random', {one} }}]"));
        let resolved = resolve(&former, next, <_>::default(), <_>::default());
        assert!(Arc::ptr_eq(&resolved.members["a"], &former.members["a"]));
    }
}
