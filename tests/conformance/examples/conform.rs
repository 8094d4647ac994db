//! Runs the suite against an engine of this repository:
//! `conform ENGINE [--probes] [--scenarios [NAME..]] [--seeds FROM COUNT] [--trace LINES]`;
//! without any choice, everything.

use std::process::ExitCode;

use moult_conformance::{Factory, Native, Plan, Seeds, conform};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    let factory: Box<dyn Factory> = match args.next().as_deref() {
        Some("pbft") => Box::new(Native::<moult_pbft::Pbft>::new()),
        Some("raft") => Box::new(Native::<moult_raft::Raft>::new()),
        _ => return usage("the engine is `pbft` or `raft`"),
    };
    let mut plan = if args.peek().is_none() { Plan::default() } else { Plan::empty() };
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|text| text.parse::<u64>().ok());
        match arg.as_str() {
            "--probes" => plan.probes = true,
            "--scenarios" => {
                plan.scenarios = Plan::default().scenarios;
                let mut names = Vec::new();
                while let Some(name) = args.next_if(|arg| !arg.starts_with("--")) {
                    names.push(name);
                }
                plan.scenarios.retain(|scenario| names.is_empty() || names.contains(&scenario.name));
            }
            "--seeds" => match (number(), number()) {
                (Some(from), Some(count)) => plan.seeds = Some(Seeds::new(from, count)),
                _ => return usage("`--seeds FROM COUNT`"),
            },
            "--trace" => match number() {
                Some(lines) => plan.trace_lines = lines as usize,
                None => return usage("`--trace LINES`"),
            },
            _ => return usage(&format!("what is `{arg}`?")),
        }
    }
    plan.failures_max = u64::MAX;
    let report = conform(factory.as_ref(), &plan, &mut |_| {});
    println!("{report}");
    if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn usage(problem: &str) -> ExitCode {
    eprintln!(
        "{problem}\nconform ENGINE [--probes] [--scenarios [NAME..]] [--seeds FROM COUNT] [--trace LINES]"
    );
    ExitCode::FAILURE
}
