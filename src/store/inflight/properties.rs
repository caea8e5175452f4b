//! The in-flight window against a list of what was sent and not yet acknowledged.

use proptest::prelude::*;

use super::tests::delivery;
use super::*;

/// What a connection does with the window; `usize` chooses among the identifiers that are in flight.
#[derive(Clone, Copy, Debug)]
enum Step {
    Send(QoS),
    Finish(usize),
    Receive(usize),
    /// An acknowledgement for an identifier that the client made up.
    Invent(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let qos = prop::sample::select(vec![QoS::AtLeastOnce, QoS::ExactlyOnce]);
    prop_oneof![
        4 => qos.prop_map(Step::Send),
        3 => any::<usize>().prop_map(Step::Finish),
        2 => any::<usize>().prop_map(Step::Receive),
        1 => any::<u16>().prop_map(Step::Invent),
    ]
}

#[derive(Clone, Debug, PartialEq)]
struct Known {
    id: PacketId,
    payload: String,
    qos: QoS,
    received: bool,
}

fn listed(inflight: &Inflight) -> Vec<Known> {
    let known = inflight.iter().map(|(id, sent)| Known {
        id,
        payload: String::from_utf8(sent.delivery.message.payload().to_vec()).unwrap(),
        qos: sent.delivery.qos,
        received: sent.received,
    });
    known.collect()
}

proptest! {
    /// `maximum` is the client's Receive Maximum; it may differ after a reconnection, which is where a run of steps ends.
    #[test]
    fn the_window_agrees_with_a_list(
        next in prop_oneof![Just(1_u16), 65_500..=65_535_u16, 1..=u16::MAX],
        connections in prop::collection::vec((1..40_usize, prop::collection::vec(step(), 0..60)), 1..6),
    ) {
        let mut inflight = Inflight { next, ..Inflight::default() };
        let mut list: Vec<Known> = Vec::new();
        let mut sent = 0;
        for (maximum, steps) in connections {
            for step in steps {
                prop_assert_eq!(inflight.room(maximum), maximum.saturating_sub(list.len()));
                match step {
                    Step::Send(_) if inflight.room(maximum) == 0 => {}
                    Step::Send(qos) => {
                        let payload = sent.to_string();
                        let id = inflight.begin(delivery(&payload, qos));
                        prop_assert!(list.iter().all(|known| known.id != id), "an identifier is in use once");
                        list.push(Known { id, payload, qos, received: false });
                        sent += 1;
                    }
                    Step::Finish(choice) if !list.is_empty() => {
                        let known = list.remove(choice % list.len());
                        let finished = inflight.finish(known.id).map(|delivery| delivery.message.payload().to_vec());
                        prop_assert_eq!(finished, Some(known.payload.into_bytes()));
                        prop_assert!(inflight.finish(known.id).is_none(), "a second acknowledgement finds nothing");
                    }
                    Step::Receive(choice) if !list.is_empty() => {
                        let at = choice % list.len();
                        let known = &mut list[at];
                        let is_qos2 = known.qos == QoS::ExactlyOnce;
                        prop_assert_eq!(inflight.receive(known.id).is_ok(), is_qos2, "PUBREC is for QoS 2 only");
                        known.received |= is_qos2;
                    }
                    Step::Invent(id) => {
                        let Some(id) = PacketId::new(id) else { continue };
                        let known = list.iter().find(|known| known.id == id);
                        prop_assert_eq!(inflight.get(id).is_some(), known.is_some());
                        if known.is_none() {
                            prop_assert_eq!(inflight.receive(id), Ok(false));
                            prop_assert!(inflight.acknowledge(id).unwrap().is_none());
                            prop_assert!(inflight.finish(id).is_none());
                        }
                    }
                    Step::Finish(_) | Step::Receive(_) => {}
                }
                prop_assert_eq!((inflight.len(), inflight.is_empty()), (list.len(), list.is_empty()));
            }
            // What is sent again after a reconnection, in the order of the first time.
            prop_assert_eq!(listed(&inflight), list.clone());
        }
    }
}
