//! The in-flight window against a list of what was sent and not yet acknowledged.

use proptest::prelude::*;

use super::tests::delivery;
use super::*;

/// What a connection does with the window; `usize` chooses among the identifiers that are in flight.
#[derive(Clone, Copy, Debug)]
enum Step {
    Send(QoS),
    /// A retained message for a new subscription.
    SendExtra(QoS),
    /// The queue loses so many messages.
    Drop(u64),
    Finish(usize),
    Receive(usize),
    /// An acknowledgement for an identifier that the client made up.
    Invent(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let qos = prop::sample::select(vec![QoS::AtLeastOnce, QoS::ExactlyOnce]);
    prop_oneof![
        4 => qos.clone().prop_map(Step::Send),
        1 => qos.prop_map(Step::SendExtra),
        1 => prop_oneof![1..5_u64, 1..Inflight::SPAN * 2].prop_map(Step::Drop),
        3 => any::<usize>().prop_map(Step::Finish),
        2 => any::<usize>().prop_map(Step::Receive),
        1 => any::<u16>().prop_map(Step::Invent),
    ]
}

#[derive(Clone, Debug, PartialEq)]
struct Known {
    id: PacketId,
    seq: u64,
    qos: QoS,
    received: bool,
}

fn listed(inflight: &Inflight) -> Vec<Known> {
    let known = inflight.iter().map(|(id, sent)| Known {
        id,
        seq: sent.delivery.seq,
        qos: sent.delivery.qos,
        received: sent.received,
    });
    known.collect()
}

proptest! {
    /// `maximum` is the client's Receive Maximum; it may differ after a reconnection, which is where a run of steps ends.
    #[test]
    fn the_window_agrees_with_a_list(
        first in prop_oneof![Just(1_u64), 49_100..=49_200_u64, 1..=200_000_u64],
        connections in prop::collection::vec((1..40_usize, prop::collection::vec(step(), 0..60)), 1..6),
    ) {
        let mut inflight = Inflight::default();
        let mut list: Vec<Known> = Vec::new();
        let mut seq = first;
        for (maximum, steps) in connections {
            for step in steps {
                prop_assert_eq!(inflight.room(maximum), maximum.saturating_sub(list.len()));
                match step {
                    Step::Drop(messages) => seq += messages,
                    Step::Send(_) | Step::SendExtra(_) if inflight.room(maximum) == 0 => {}
                    Step::Send(_) if seq >= inflight.end() => {
                        let oldest = list.iter().find(|known| known.seq & EXTRA == 0).unwrap();
                        prop_assert!(seq - oldest.seq >= Inflight::SPAN, "only what is too far from the oldest has to wait");
                    }
                    Step::Send(qos) => {
                        let id = inflight.begin(delivery(seq, qos));
                        prop_assert!(list.iter().all(|known| known.id != id), "an identifier is in use once");
                        list.push(Known { id, seq, qos, received: false });
                        seq += 1;
                    }
                    Step::SendExtra(_) if !inflight.admits_extra() => {}
                    Step::SendExtra(qos) => {
                        let (id, seq) = inflight.begin_extra(delivery(0, qos));
                        prop_assert!(list.iter().all(|known| known.id != id), "an identifier is in use once");
                        list.push(Known { id, seq, qos, received: false });
                    }
                    Step::Finish(choice) if !list.is_empty() => {
                        let known = list.remove(choice % list.len());
                        let finished = inflight.finish(known.id).map(|delivery| delivery.seq);
                        prop_assert_eq!(finished, Some(known.seq));
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
                            prop_assert_eq!(inflight.receive(id), Ok(None));
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
