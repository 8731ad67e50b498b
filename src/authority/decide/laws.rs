//! Laws that hold whatever the sources say, and in whatever order.

use proptest::prelude::*;

use super::bench::{Bench, at, claim, closing, own_word, read, superseded, word};
use super::*;
use crate::authority::database::Read;
use crate::authority::facts::Across as Heard;
use crate::authority::outputs::{Step, steps};
use crate::authority::word::{Proof, Word};
use crate::clock::BootTime;

/// One thing that an agent sees or that happens to it.
#[derive(Debug, Clone)]
enum Event {
    After(u64),
    Own(Option<Read>),
    Other(Option<Read>),
    Across(Heard),
    Members(Vec<Word>),
    /// It starts again, in the same boot or in another one.
    Restart(bool),
    /// The steps of the last decision are taken, so many of them.
    CarryOut(usize),
}

fn database() -> impl Strategy<Value = Option<Read>> {
    let signals = (any::<bool>(), prop_oneof![Just(Some(0)), Just(Some(1)), Just(None)]);
    // Mostly what a sound database shows.
    let sound = prop_oneof![4 => Just((true, Some(0))), 4 => Just((false, Some(1))), 1 => signals];
    let close = prop_oneof![3 => Just(None), 1 => (any::<bool>(), any::<bool>()).prop_map(Some)];
    let by = prop_oneof![3 => Just(None), 1 => (any::<bool>(), 1..6_u64).prop_map(Some)];
    let shown = (0..6_u64, sound, close, by).prop_map(|(epoch, (is_writable, channels), close, by)| {
        let mut shown = Read { is_writable, channels, ..read("s", epoch) };
        let region = |home| if home { "h" } else { "p" };
        if let Some((home, in_force)) = close {
            shown = closing(shown, region(home), in_force);
        }
        if let Some((home, by)) = by {
            shown = superseded(shown, region(home), epoch, by);
        }
        shown
    });
    prop_oneof![1 => Just(None), 5 => shown.prop_map(Some)]
}

fn state() -> impl Strategy<Value = State> {
    prop_oneof![
        Just(State::Boot),
        Just(State::OwnerPending),
        Just(State::Owner),
        Just(State::Standby),
        Just(State::Superseded)
    ]
}

fn member() -> impl Strategy<Value = Word> {
    (state(), 0..6_u64, any::<bool>(), prop_oneof![Just("none"), Just("h"), Just("p")]).prop_map(
        |(state, epoch, passed, writer)| Word {
            known: (epoch > 0).then(|| claim(epoch)),
            own: Some(own_word(epoch, Shows::Writable)),
            took_over: if passed { epoch } else { 0 },
            writer: writer.to_owned(),
            ..word(state, 1)
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let proof = (0..6_u64, any::<bool>()).prop_map(|(epoch, closed)| {
        let owner = (epoch > 0).then(|| claim(epoch).region);
        Heard::Verified(Proof { epoch, owner, closed, ..Proof::default() })
    });
    let across = prop_oneof![
        4 => proof,
        1 => Just(Heard::Silent),
        1 => Just(Heard::Failed),
        1 => any::<u64>().prop_map(|epoch| Heard::Unverified(Some(epoch)))
    ];
    prop_oneof![
        3 => (1..16_u64).prop_map(Event::After),
        6 => database().prop_map(Event::Own),
        4 => database().prop_map(Event::Other),
        3 => across.prop_map(Event::Across),
        2 => prop::collection::vec(member(), 0..3).prop_map(Event::Members),
        1 => any::<bool>().prop_map(Event::Restart),
        3 => (0..6_usize).prop_map(Event::CarryOut),
    ]
}

impl Bench {
    fn meet(&mut self, event: &Event, last: Option<&Decision>) {
        // Whatever is decided is decided after what it is decided on.
        self.facts.now = self.facts.now + std::time::Duration::from_millis(10);
        match event.clone() {
            Event::After(seconds) => _ = self.after(seconds),
            Event::Own(read) => _ = self.own(read),
            Event::Other(read) => _ = self.other(read),
            Event::Across(heard) => _ = self.across(heard),
            Event::Members(words) => _ = self.members(&words),
            Event::Restart(same) => {
                let now = self.facts.now;
                let boot = if same { self.memory.boot.clone() } else { format!("{}'", self.memory.boot) };
                self.memory = Memory::resume(Some(self.memory.clone()), &boot, now);
                self.facts.own = super::super::facts::Database::default();
                self.facts.other = Some(super::super::facts::Database::default());
                self.facts.across = Some(super::super::facts::Source::default());
                self.facts.group = super::super::facts::Group::default();
            }
            Event::CarryOut(count) => {
                let Some(last) = last else { return };
                for step in steps(last, &self.facts.applied).into_iter().take(count) {
                    self.carry_out(&step);
                }
            }
        }
        self.facts.now = self.facts.now + std::time::Duration::from_millis(10);
    }

    fn carry_out(&mut self, step: &Step) {
        let applied = &mut self.facts.applied;
        match step {
            Step::CloseGate => applied.gate_closed = true,
            Step::OpenGate => applied.gate_closed = false,
            Step::StopWriter => applied.writers.clear(),
            Step::Repoint(region) => applied.writers = [region.clone()].into(),
            Step::CloseRegion | Step::Record(_) | Step::Claim(_) | Step::OpenRegion => {}
        }
    }
}

/// Every source was asked since `time`, the own database with success.
fn is_fresh(bench: &Bench, time: BootTime) -> bool {
    bench.facts.own.read_since(time).is_some() && bench.facts.asked_since(time)
}

fn check(bench: &Bench, before: &Memory, decision: &Decision) -> Result<(), TestCaseError> {
    let (facts, memory) = (&bench.facts, &decision.memory);
    let (me, other) = (facts.place.region.as_str(), facts.place.other.as_str());
    prop_assert!(memory.known_epoch() >= before.known_epoch(), "known never falls");
    let own = memory.own.as_ref();
    let is_behind = own.is_some_and(|own| learn::is_behind(own, memory));
    if decision.gate == Gate::Open {
        prop_assert!(facts.own.fresh().is_some(), "nothing opens on what was seen before");
        prop_assert!(!is_behind || decision.state == State::Standby, "nothing opens under a higher epoch");
    }
    let epoch = own.map_or(0, Own::epoch);
    let by_member = facts.group.words().any(|(_, word)| word.is(State::Owner) && word.took_over == epoch);
    if decision.state == State::Owner && before.state != State::Owner && before.took_over != epoch && !by_member {
        let since = before.run.pending.filter(|(waits_for, _)| *waits_for == epoch).map_or(at(0), |(_, since)| since);
        prop_assert!(since > at(0) && is_fresh(bench, since), "no opening without fresh reads");
    }
    match &decision.writer {
        Target::Region(writer) if writer == me => prop_assert_eq!(decision.state, State::Owner),
        Target::Region(writer) => {
            prop_assert_eq!(writer, other);
            prop_assert!(matches!(decision.state, State::Standby | State::Superseded));
        }
        Target::Keep | Target::Nobody => {}
    }
    if decision.promoted {
        prop_assert_eq!(memory.known.as_ref().map(|known| known.region.as_str()), Some(me));
        prop_assert_ne!(decision.state, State::Boot);
    }
    if let Ok(row) = &decision.claim {
        let seen = &facts.own.fresh().unwrap().read;
        prop_assert_eq!(decision.state, State::Unclaimed);
        prop_assert_eq!(Shows::of(seen), Shows::Writable);
        prop_assert!(row.epoch > memory.known_epoch() && row.parent == epoch && row.region == me);
        let claimed = Claim { epoch: row.epoch, region: row.region.clone() };
        prop_assert!(facts.place.is_possible(&claimed));
    }
    Ok(())
}

/// What closes comes first, in its order; what opens comes last.
fn check_order(decision: &Decision, bench: &Bench) -> Result<(), TestCaseError> {
    let steps = steps(decision, &bench.facts.applied);
    let rank = |step: &Step| match step {
        Step::CloseRegion => 0,
        Step::CloseGate => 1,
        Step::Record(_) => 2,
        Step::StopWriter => 3,
        Step::Claim(_) => 4,
        Step::Repoint(_) => 5,
        Step::OpenGate => 6,
        Step::OpenRegion => 7,
    };
    prop_assert!(steps.is_sorted_by_key(rank), "{:?}", steps);
    let claims = steps.iter().any(|step| matches!(step, Step::Claim(_)));
    let opens = steps.iter().any(|step| rank(step) >= 5);
    prop_assert!(!(claims && opens), "nothing opens on a claim that is not committed");
    // Done in full, there is nothing left to do.
    let mut done = bench.clone();
    for step in &steps {
        done.carry_out(step);
    }
    let left = outputs::steps(decision, &done.facts.applied);
    prop_assert!(left.iter().all(|step| matches!(step, Step::Record(_) | Step::Claim(_))), "{:?}", left);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_seen_the_laws_hold(home in any::<bool>(), events in prop::collection::vec(event(), 1..60)) {
        let mut bench = Bench::new(if home { "h" } else { "p" });
        let mut last: Option<Decision> = None;
        for event in &events {
            bench.meet(event, last.as_ref());
            let before = bench.memory.clone();
            let decision = bench.decide();
            prop_assert_eq!(&decision, &decide(&bench.facts, &before), "the same facts, the same decision");
            check(&bench, &before, &decision)?;
            check_order(&decision, &bench)?;
            let again = decide(&bench.facts, &decision.memory);
            let outputs = |decision: &Decision| {
                let Decision { state, gate, writer, region, promoted, .. } = decision;
                (*state, *gate, writer.clone(), *region, *promoted)
            };
            prop_assert_eq!(outputs(&again), outputs(&decision), "nothing is decided twice");
            last = Some(decision);
        }
    }
}
