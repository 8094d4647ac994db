//! Events and outcomes in a few words, for the trace.

use moult_sdk::engine::{Action, Choice, Event, Outcome, Recipients};

/// Things listed before the rest is only counted.
const LISTED_MAX: usize = 8;

/// Events in a few words.
pub(crate) fn of_events(events: &[Event]) -> String {
    list(events.iter().map(|event| match event {
        Event::Vote(s) => {
            format!("vote {}:{:?} {:?}", s.author.0, (s.slot.kind, s.slot.a, s.slot.b), s.digest)
        }
        Event::Message(m) => {
            format!("message {} of {} bytes, {} statements", m.sender.0, m.payload.len(), m.statements.len())
        }
        Event::Batches(batches) => {
            format!("batches {:?}", batches.iter().map(|b| b.digest).collect::<Vec<_>>())
        }
        Event::Final { index, batches } => format!("final {} of {batches:?}", index.0),
        other => format!("{other:?}"),
    }))
}

/// An outcome in a few words; empty for nothing.
pub(crate) fn of_outcome(outcome: &Outcome) -> String {
    let records = outcome.durable.iter().map(|r| format!("record {} ({} bytes)", r.id, r.body.len()));
    list(records.chain(outcome.release.iter().map(of_action)))
}

fn of_action(action: &Action) -> String {
    match action {
        Action::Vote { to, choice } => format!("vote{} {}", of_recipients(to), of_choice(choice)),
        Action::Send(e) => {
            let signs: Vec<String> = e.sign.iter().map(of_choice).collect();
            let (bytes, attached) = (e.payload.len(), e.attach.len());
            format!("send{} {bytes} bytes [{}] +{attached}", of_recipients(&e.to), signs.join(" "))
        }
        Action::SetTimer { id, after_ms } => format!("timer {id} in {after_ms}"),
        Action::Commit(c) => {
            format!("COMMIT {} {:?} round {} by {:?}", c.index.0, c.batches, c.round, c.leader.map(|l| l.0))
        }
        Action::Fetch { batches, .. } => format!("fetch {batches:?}"),
        Action::Measure { gauge, value } => format!("gauge {gauge}={value}"),
        other => format!("{other:?}"),
    }
}

fn of_recipients(to: &Recipients) -> String {
    match to {
        Recipients::All => String::new(),
        Recipients::One(one) => format!(" to {}", one.0),
        Recipients::Some(some) => format!(" to {:?}", some.iter().map(|a| a.0).collect::<Vec<_>>()),
    }
}

fn of_choice(choice: &Choice) -> String {
    format!("{:?}={:?}", (choice.slot.kind, choice.slot.a, choice.slot.b), choice.digest)
}

fn list(things: impl Iterator<Item = String>) -> String {
    let mut things: Vec<String> = things.collect();
    let more = things.len().saturating_sub(LISTED_MAX);
    things.truncate(LISTED_MAX);
    if more > 0 {
        things.push(format!("and {more} more"));
    }
    things.join("; ")
}
