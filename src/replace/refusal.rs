//! Why an instance is not replaced: the names and their sentences, the same wherever they are shown.

use crate::reasons::reasons;

reasons! {
    /// One reason not to replace this instance.
    Refusal {
        NotEnforcing: "`replace.mode` is `observe`, or there is no usable `key_file`: it is only counted";
        NotInService: "the instance is not in service in an Auto Scaling group";
        InGracePeriod: "the instance is within its group's health check grace period";
        TooYoung: "the instance has not run long enough to be judged";
        Draining: "the instance drains: whoever drains it looks after it";
        OnHold: "an operator holds it with `dr-agent hold`";
        Fenced: "the gate is closed: this region serves nobody, and new instances would not either";
        NotLocal: "it is not certain that the fault is this instance's own";
        NotCurable: "a replacement would not cure it, or it never worked here in this boot";
        NotSustained: "the fault has not lasted long enough, or comes and goes";
        PeersShareIt: "no other member is known to be free of the same fault";
        Zonal: "members of this zone share the fault, or nobody else is in this zone to say otherwise";
        NoQuorum: "not enough members agreed";
        BudgetSpent: "too many instances were replaced lately, or too few others could serve meanwhile";
        GroupNotSettled: "the group is changing: fewer instances than it should have, or a refresh in progress";
        LaunchesFailing: "the group could not launch an instance within the last 30 minutes";
        ProcessSuspended: "the group's launching, terminating or replacing is suspended";
        ReplacementDidNotCure: "instances were replaced for the same kind of fault, and it came back";
        StoppedByTag: "the group has the tag `dr-agent:replace=off`";
        ApiUnavailable: "Auto Scaling could not be asked";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_twenty_and_each_has_a_sentence_of_its_own() {
        let mut sentences: Vec<_> = Refusal::ALL.iter().map(|refusal| refusal.sentence()).collect();
        sentences.sort_unstable();
        sentences.dedup();
        assert_eq!((Refusal::ALL.len(), sentences.len()), (20, 20));
        for refusal in Refusal::ALL {
            assert_eq!(serde_json::to_value(refusal).unwrap(), refusal.name());
        }
    }
}
