use super::*;
use crate::config::{Format, Output, Region, defaults};
use crate::helper::Done;

fn at(milliseconds: u64) -> BootTime {
    BootTime::from_boot(Duration::from_millis(milliseconds))
}

fn config() -> Config {
    let region = |host: &str| Region { database: Some(host.to_owned()), ..Region::default() };
    let mut config = defaults();
    config.regions = [("a".to_owned(), region("a.example")), ("b".to_owned(), region("b.example"))].into();
    config.repoint.outputs = vec![Output { format: Format::Env, path: "/x/env".into() }];
    config
}

fn wanted(writer: &str) -> Wanted {
    Wanted {
        writer: writer.to_owned().into(),
        reader: Target::Region("a".to_owned()),
        epoch: 3,
        state: "owner".to_owned(),
        only_new: false,
    }
}

fn goal(writer: &str) -> Goal {
    Goal::of(&wanted(writer), &config()).unwrap()
}

fn target(name: &str) -> Target {
    name.to_owned().into()
}

fn seen() -> Seen {
    Seen::Sql { server: "s".to_owned() }
}

/// Plays the executor.
#[derive(Default)]
struct Player {
    plan: Plan,
    ids: u32,
}

impl Player {
    fn next(&self, goal: &Goal, now: u64) -> Step {
        self.plan.next(Some(goal), at(now))
    }

    /// Takes a step that must be a decision, and gives its id.
    fn decide(&mut self, goal: &Goal, now: u64) -> Decision {
        let Step::Decide(draft) = self.next(goal, now) else { panic!("{:?}", self.next(goal, now)) };
        self.ids += 1;
        let decision = draft.decision(self.ids.to_string());
        self.plan.decided(*draft, decision.clone(), at(now));
        decision
    }

    fn look(&mut self, goal: &Goal, result: Result<(), &str>, now: u64) {
        let Step::Look { region, .. } = self.next(goal, now) else { panic!("{:?}", self.next(goal, now)) };
        assert_eq!(Some(region.as_str()), goal.wanted.writer.region());
        self.plan.looked(goal, result.map_err(str::to_owned), at(now));
    }

    fn helper(&mut self, writer: Option<&str>, error: Option<&str>, now: u64) {
        let id = self.plan.current.as_ref().unwrap().decision.id.clone();
        let done = Done { id, ok: error.is_none(), error: error.map(str::to_owned) };
        self.plan.applied(&Applied { done, writer: writer.map(target), warning: None }, at(now));
    }

    fn reach(&mut self, goal: &Goal, now: u64) {
        let name = String::from(goal.wanted.writer.clone());
        if name != "none" {
            self.look(goal, Ok(()), now);
        }
        self.decide(goal, now);
        self.helper(Some(&name), None, now);
        if name != "none" {
            assert!(matches!(self.next(goal, now), Step::Verify(_)));
            self.plan.verified(Ok(seen()), at(now));
        }
        assert!(self.plan.is_reached(goal));
        assert_eq!(self.next(goal, now), Step::Rest(None), "one goal is one repoint");
    }
}

#[test]
fn a_writer_is_looked_at_decided_applied_and_verified() {
    let mut player = Player::default();
    let goal = goal("b");
    player.look(&goal, Ok(()), 0);
    let decision = player.decide(&goal, 10);
    assert_eq!((decision.writer, decision.rollback, decision.epoch), (target("b"), None, 3));
    assert_eq!(player.next(&goal, 20), Step::Await);
    assert_eq!(player.next(&goal, 1_010), Step::Ask, "what came while the helper ran wakes nobody");
    player.plan.asked(at(1_010));
    assert_eq!(player.next(&goal, 1_020), Step::Await);
    assert!(!player.plan.is_applied(&goal));
    player.helper(Some("b"), None, 1_100);
    assert!(player.plan.is_applied(&goal) && !player.plan.is_reached(&goal));
    let Step::Verify(writer) = player.next(&goal, 1_100) else { panic!() };
    assert_eq!((writer.host.as_str(), writer.port), ("b.example", 3306));
    player.plan.verified(Err("not yet".to_owned()), at(1_200));
    assert_eq!(player.next(&goal, 1_300), Step::Rest(Some(at(1_700))));
    assert!(matches!(player.next(&goal, 1_700), Step::Verify(_)));
    player.plan.verified(Ok(seen()), at(1_700));
    assert!(player.plan.is_reached(&goal));
    assert_eq!(player.next(&goal, 1_000_000), Step::Rest(None));
}

#[test]
fn no_writer_waits_for_nothing_and_is_never_taken_back() {
    let mut player = Player::default();
    player.reach(&goal("a"), 0);
    let none = goal("none");
    let decision = player.decide(&none, 100);
    assert_eq!((decision.writer, decision.rollback), (Target::None, None));
    for (now, ask_at) in [(200, 5_200), (5_300, 15_300), (15_400, 35_400)] {
        player.helper(None, Some("disk full"), now);
        assert_eq!(player.next(&none, now + 1), Step::Rest(Some(at(ask_at))));
        assert_eq!(player.next(&none, ask_at), Step::Ask, "it is asked for again");
        player.plan.asked(at(ask_at));
    }
    // Nor is a helper that says nothing.
    assert_eq!(player.next(&none, 1_000_000), Step::Ask);
    player.helper(Some("none"), None, 1_000_000);
    assert!(player.plan.is_reached(&none));
}

#[test]
fn it_comes_in_between_at_any_step() {
    let (b, none) = (goal("b"), goal("none"));
    for steps in 0..4 {
        let mut player = Player::default();
        if steps > 0 {
            player.look(&b, Ok(()), 0);
        }
        if steps > 1 {
            player.decide(&b, 10);
        }
        if steps > 2 {
            player.helper(Some("b"), None, 20);
        }
        assert_eq!(player.decide(&none, 30).writer, Target::None, "{steps}");
        // What an overtaken run of the helper tells is of no interest.
        let late = Done { id: "1".to_owned(), ok: true, error: None };
        if steps > 1 {
            player.plan.applied(&Applied { done: late, writer: Some(target("b")), warning: None }, at(40));
            assert_eq!(player.next(&none, 50), Step::Await);
        }
    }
}

#[test]
fn what_fails_goes_back_and_comes_again_later_each_time() {
    let mut player = Player::default();
    let goal = goal("b");
    player.reach(&goal_at_another_host(), 0);
    let mut now = 1_000;
    for wait in [5, 10, 20, 40, 60, 60] {
        player.look(&goal, Ok(()), now);
        let failing = player.decide(&goal, now).id;
        match wait {
            5 => player.helper(None, Some("no"), now),
            10 => now += 35_000,
            _ => {
                player.helper(Some("b"), None, now);
                player.plan.verified(Err("refused".to_owned()), at(now));
                now += 10_000;
            }
        }
        let back = player.decide(&goal, now);
        assert_eq!((back.rollback, back.writer), (Some(failing), target("b")), "{wait}");
        player.helper(Some("b"), None, now);
        assert!(!player.plan.is_reached(&goal) && player.plan.is_applied(&goal));
        let again = now + wait * 1_000;
        assert_eq!(player.next(&goal, now), Step::Rest(Some(at(again))));
        now = again;
    }
}

fn goal_at_another_host() -> Goal {
    let mut config = config();
    config.regions.get_mut("b").unwrap().database = Some("before.example".to_owned());
    Goal::of(&wanted("b"), &config).unwrap()
}

#[test]
fn another_host_of_the_same_region_is_another_repoint() {
    assert_ne!(goal_at_another_host(), goal("b"));
    let mut player = Player::default();
    player.reach(&goal_at_another_host(), 0);
    assert!(matches!(player.next(&goal("b"), 10), Step::Look { .. }));
}

#[test]
fn a_writer_that_may_not_stay_goes_when_the_new_one_does_not_pass() {
    let mut player = Player::default();
    player.reach(&goal("a"), 0);
    let b = goal("b");
    player.look(&b, Err("it is a replica"), 100);
    assert_eq!(player.plan.objection(&b), Some("it is a replica"));
    let close = player.decide(&b, 100);
    assert_eq!((close.writer, close.rollback), (Target::None, None));
    player.helper(Some("none"), None, 200);
    assert!(!player.plan.is_reached(&b) && player.plan.is_applied(&b));
    player.look(&b, Err("it is a replica"), 300);
    assert_eq!(player.next(&b, 400), Step::Rest(Some(at(2_300))));
    player.look(&b, Ok(()), 2_300);
    assert_eq!(player.decide(&b, 2_300).writer, target("b"));
}

#[test]
fn the_own_writer_stays_while_it_cannot_be_looked_at_and_so_does_one_that_nobody_knows() {
    let later = Wanted { epoch: 5, ..wanted("a") };
    let later = Goal::of(&later, &config()).unwrap();
    let mut player = Player::default();
    player.look(&later, Err("no answer"), 0);
    assert_eq!(player.next(&later, 10), Step::Rest(Some(at(2_000))), "a site that was live before the first decision");
    let mut player = Player::default();
    player.reach(&goal("a"), 0);
    player.look(&later, Err("no answer"), 100);
    assert_eq!(player.next(&later, 200), Step::Rest(Some(at(2_100))));
}

#[test]
fn a_look_does_not_count_for_long() {
    let mut player = Player::default();
    player.look(&goal("b"), Ok(()), 0);
    assert!(matches!(player.next(&goal("b"), 9_999), Step::Decide(_)));
    assert!(matches!(player.next(&goal("b"), 10_000), Step::Look { .. }));
}

#[test]
fn without_a_goal_what_was_begun_is_ended_and_nothing_else_begins() {
    let mut player = Player::default();
    assert_eq!(player.plan.next(None, at(0)), Step::Rest(None));
    assert_eq!(Goal::of(&Wanted { writer: Target::Unchanged, ..wanted("a") }, &config()), None);
    assert_eq!(Goal::of(&wanted("a"), &defaults()), None, "there is no output");
    player.look(&goal("b"), Ok(()), 0);
    player.decide(&goal("b"), 0);
    assert_eq!(player.plan.next(None, at(10)), Step::Await);
    player.helper(Some("b"), None, 20);
    assert!(matches!(player.plan.next(None, at(20)), Step::Verify(_)));
    player.plan.verified(Ok(seen()), at(30));
    assert_eq!(player.plan.next(None, at(40)), Step::Rest(None));
}

#[test]
fn a_new_instance_that_had_a_writer_keeps_it() {
    let new = Goal::of(&Wanted { only_new: true, epoch: 0, ..wanted("a") }, &config()).unwrap();
    for (found, verifies) in [(Some("a"), true), (Some("b"), false), (None, false)] {
        let mut player = Player::default();
        player.look(&new, Ok(()), 0);
        assert!(player.decide(&new, 0).only_new);
        player.helper(found, None, 10);
        assert_eq!(matches!(player.next(&new, 10), Step::Verify(_)), verifies, "{found:?}");
        assert_eq!(player.plan.present, found.map(target));
    }
}

#[test]
fn an_agent_that_starts_again_asks_for_the_same_decision_and_makes_no_new_one() {
    let mut player = Player::default();
    player.reach(&goal("b"), 0);
    let decision = player.plan.current.clone().unwrap().decision;
    let mut player = Player { plan: Plan::resume(decision, true, &config(), at(5_000)), ids: 1 };
    assert_eq!(player.plan.next(None, at(5_000)), Step::Rest(None), "not before it is wanted again");
    assert_eq!(player.next(&goal("b"), 5_000), Step::Ask);
    player.plan.asked(at(5_000));
    player.helper(Some("b"), None, 5_010);
    assert!(matches!(player.next(&goal("b"), 5_020), Step::Verify(_)));
    // And one that was rolled back goes on to the goal.
    let back = Decision { rollback: Some("7".to_owned()), ..player.plan.current.clone().unwrap().decision };
    let mut player = Player { plan: Plan::resume(back, true, &config(), at(5_000)), ids: 1 };
    assert_eq!(player.next(&goal("b"), 5_000), Step::Ask);
    player.helper(Some("none"), None, 5_010);
    assert!(matches!(player.next(&goal("b"), 5_020), Step::Look { .. }));
}

#[test]
fn what_stood_before_the_agent_started_is_not_taken_away_because_nobody_can_log_in_now() {
    let mut player = Player::default();
    player.reach(&goal("b"), 0);
    let decision = player.plan.current.clone().unwrap().decision;
    let resumed = |now| {
        let mut player = Player { plan: Plan::resume(decision.clone(), true, &config(), at(now)), ids: 1 };
        assert_eq!(player.next(&goal("b"), now), Step::Ask);
        player.plan.asked(at(now));
        player
    };
    let mut player = resumed(5_000);
    player.helper(Some("b"), None, 5_010);
    let mut now = 5_020;
    // An hour, in which its account is refused.
    while now < 3_600_000 {
        match player.next(&goal("b"), now) {
            Step::Verify(_) => player.plan.verified(Err("access denied".to_owned()), at(now)),
            Step::Rest(Some(until)) => now = u64::try_from(until.since(at(0)).as_millis()).unwrap(),
            step => panic!("{step:?} at {now}"),
        }
        assert!(!player.plan.is_reached(&goal("b")));
    }
    player.plan.verified(Ok(seen()), at(now));
    assert!(player.plan.is_reached(&goal("b")));
    // The same with a helper that is silent for longer than it may take, and then fails.
    let mut player = resumed(5_000);
    let late = 5_000 + 2 * u64::try_from(helper::LIMIT.as_millis()).unwrap();
    assert_eq!(player.next(&goal("b"), late), Step::Ask);
    player.plan.asked(at(late));
    player.helper(None, Some("the app does not reload"), late + 10);
    let Step::Rest(Some(until)) = player.next(&goal("b"), late + 20) else { panic!() };
    assert_eq!(player.plan.next(Some(&goal("b")), until), Step::Ask);
    // What is decided from now on can fail like any other.
    player.look(&goal("a"), Ok(()), late + 30);
    player.decide(&goal("a"), late + 30);
    player.helper(None, Some("the app does not reload"), late + 40);
    assert!(
        matches!(player.next(&goal("a"), late + 40), Step::Decide(draft) if matches!(draft.purpose, Purpose::Back { .. }))
    );
}

#[test]
fn a_repoint_that_was_cut_short_before_it_was_verified_can_still_be_rolled_back() {
    let mut player = Player::default();
    player.look(&goal("b"), Ok(()), 0);
    let decision = player.decide(&goal("b"), 0);
    let mut player = Player { plan: Plan::resume(decision, false, &config(), at(5_000)), ids: 1 };
    assert_eq!(player.next(&goal("b"), 5_000), Step::Ask);
    player.plan.asked(at(5_000));
    player.helper(Some("b"), None, 5_010);
    player.plan.verified(Err("the app answers 500".to_owned()), at(15_010));
    assert!(
        matches!(player.next(&goal("b"), 15_010), Step::Decide(draft) if matches!(draft.purpose, Purpose::Back { .. }))
    );
}

#[test]
fn where_the_app_may_write_is_known_at_each_step() {
    let writers =
        |player: &Player| player.plan.writers().map(|regions| regions.into_iter().collect::<Vec<_>>().join(" "));
    let mut player = Player::default();
    assert_eq!(writers(&player), None);
    player.look(&goal("a"), Ok(()), 0);
    player.decide(&goal("a"), 0);
    assert_eq!(writers(&player), None, "nobody knows what was there before");
    player.helper(Some("a"), None, 10);
    assert_eq!(writers(&player).as_deref(), Some("a"));
    player.look(&goal("b"), Ok(()), 20);
    player.decide(&goal("b"), 20);
    assert_eq!(writers(&player).as_deref(), Some("a b"));
    player.helper(Some("b"), None, 30);
    assert_eq!(writers(&player).as_deref(), Some("b"));
    let decision = player.plan.current.clone().unwrap().decision;
    let done = Done { id: decision.id.clone(), ok: true, error: None };
    player.decide(&goal("none"), 40);
    player.helper(Some("none"), None, 50);
    assert_eq!(writers(&player).as_deref(), Some(""));
    let mut plan = Plan::resume(decision, true, &config(), at(60));
    plan.recall(&Applied {
        done: Done { id: "other".to_owned(), ..done.clone() },
        writer: Some(target("a")),
        warning: None,
    });
    assert_eq!(plan.present, None);
    plan.recall(&Applied { done, writer: Some(target("b")), warning: None });
    assert_eq!(plan.present, Some(target("b")));
}
