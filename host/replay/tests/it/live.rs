//! Shadow runs beside an engine that must not notice them.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use moult_core::ports::{EngineInstance, Fault};
use moult_replay::{ShadowEnd, ShadowLimits, ShadowState, ShadowView, Taps};
use moult_sdk::engine::{Event, Info, InitError, Outcome, Recovered, Settings};
use moult_sdk::{AuthorityIndex, Committee, Digest, NowMs};

use crate::net::{Net, pbft};
use crate::shadows::Faulty;

const NAME: Digest = Digest([9; 32]);
/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

fn limits() -> ShadowLimits {
    ShadowLimits { cpu_percent: 100, queue_bytes_max: 64 << 20, runs_max: 2 }
}

fn begin(
    taps: &Taps,
    name: Digest,
    limits: ShadowLimits,
    mut candidate: impl FnMut() -> Box<dyn EngineInstance> + Send + 'static,
) -> Option<Receiver<ShadowView>> {
    let (sender, views) = channel();
    let make = Box::new(move || Ok((candidate(), None)));
    // The test may have seen enough.
    let publish = Box::new(move |view| drop(sender.send(view)));
    taps.begin(name, Vec::new(), Recovered::default(), limits, make, publish).then_some(views)
}

fn last(views: &Receiver<ShadowView>) -> ShadowView {
    loop {
        let view = views.recv_timeout(LONG).expect("a run ends with a report");
        if view.state != ShadowState::Running {
            return view;
        }
    }
}

#[test]
fn a_run_beside_the_same_engine_is_complete_and_equal() {
    let taps = Arc::new(Taps::default());
    assert!(begin(&taps, NAME, limits(), pbft).is_none(), "no engine runs yet");
    let mut net = Net::new(Box::new(taps.wrap(pbft())));
    let views = begin(&taps, NAME, limits(), pbft).expect("begun");
    assert!(begin(&taps, NAME, limits(), pbft).is_none(), "there is one of this name");
    let other = begin(&taps, Digest([8; 32]), limits(), || Box::new(Faulty { engine: pbft(), left: 3 }));
    assert!(begin(&taps, Digest([7; 32]), limits(), pbft).is_none(), "two are enough");
    assert_eq!(net.order(50), 50);
    taps.end(NAME);
    let view = last(&views);
    assert_eq!(view.state, ShadowState::Complete);
    assert_eq!((view.report.commits.live, view.report.commits.equal), (50, 50), "{view:?}");
    let view = last(&other.expect("begun"));
    assert_eq!(view.state, ShadowState::Ended);
    assert!(matches!(view.report.end, Some(ShadowEnd::Failed(_))), "{view:?}");
    // Nothing is left of them, and the engine goes on.
    assert_eq!(net.order(5), 55);
}

/// An engine that hangs until it is let go.
struct Stuck(Arc<Mutex<Receiver<()>>>);

impl EngineInstance for Stuck {
    fn describe(&mut self) -> Result<Info, Fault> {
        Err(Fault::Trap("not asked".into()))
    }

    fn init(&mut self, _: &Settings, _: Option<&Recovered>) -> Result<Result<Outcome, InitError>, Fault> {
        Ok(Ok(Outcome::default()))
    }

    fn step(&mut self, _: NowMs, _: Vec<Event>) -> Result<Outcome, Fault> {
        // Until the test is done with it.
        let _ = self.0.lock().expect("nobody panics").recv();
        Ok(Outcome::default())
    }

    fn judge(&mut self, _: &Committee, _: &[u8]) -> Result<Option<AuthorityIndex>, Fault> {
        Ok(None)
    }
}

#[test]
fn a_candidate_that_hangs_drops_out_and_the_engine_does_not_wait() {
    let taps = Arc::new(Taps::default());
    let mut net = Net::new(Box::new(taps.wrap(pbft())));
    let (let_go, hold) = channel();
    let hold = Arc::new(Mutex::new(hold));
    let small = ShadowLimits { queue_bytes_max: 10_000, ..limits() };
    let views = begin(&taps, NAME, small, move || Box::new(Stuck(hold.clone()))).expect("begun");
    assert_eq!(net.order(50), 50, "the engine orders while the candidate hangs");
    assert_eq!(net.order(5), 55);
    drop(let_go);
    let view = last(&views);
    assert!(matches!(view.state, ShadowState::DroppedOut(_)), "{view:?}");
    assert!(view.report.steps < 55, "{view:?}");
}

#[test]
fn an_engine_that_is_rebuilt_is_followed() {
    let taps = Arc::new(Taps::default());
    let mut first = Net::new(Box::new(taps.wrap(pbft())));
    let views = begin(&taps, NAME, limits(), || Box::new(Clocked { last: 0 })).expect("begun");
    assert_eq!(first.order(10), 10);
    drop(first);
    let mut second = Net::new(Box::new(taps.wrap(pbft())));
    assert_eq!(second.order(10), 10);
    taps.end_all();
    let view = last(&views);
    assert_eq!((view.state, view.report.end), (ShadowState::Complete, None), "time never went back");
    assert!(begin(&taps, NAME, limits(), pbft).is_none(), "the epoch is over");
}

/// Fails where its time goes back.
struct Clocked {
    last: NowMs,
}

impl EngineInstance for Clocked {
    fn describe(&mut self) -> Result<Info, Fault> {
        Err(Fault::Trap("not asked".into()))
    }

    fn init(&mut self, _: &Settings, _: Option<&Recovered>) -> Result<Result<Outcome, InitError>, Fault> {
        Ok(Ok(Outcome::default()))
    }

    fn step(&mut self, now: NowMs, _: Vec<Event>) -> Result<Outcome, Fault> {
        if now < self.last {
            return Err(Fault::Trap(format!("{now} after {}", self.last)));
        }
        self.last = now;
        Ok(Outcome::default())
    }

    fn judge(&mut self, _: &Committee, _: &[u8]) -> Result<Option<AuthorityIndex>, Fault> {
        Ok(None)
    }
}
