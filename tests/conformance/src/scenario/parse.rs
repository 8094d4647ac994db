//! Reading a scenario. Strict: a line that is not understood in full is an error.

use moult_sdk::FaultModel;
use thiserror::Error;

use super::{Atom, Compare, Expect, LieName, Line, Links, Model, Nodes, Scenario, Step, Variant};
use crate::world::{Kind, Point};

/// What is wrong with a scenario.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("line {line}: {problem}")]
pub struct ParseError {
    /// From 1.
    pub line: usize,
    /// For a person.
    pub problem: String,
}

type Parsed<T> = Result<T, String>;

/// Most variants of one scenario.
const VARIANTS_MAX: usize = 64;

/// Reads a scenario.
///
/// # Errors
/// The line that is wrong, and what is wrong with it.
pub fn parse(text: &str) -> Result<Scenario, ParseError> {
    let mut lines = text
        .lines()
        .enumerate()
        .map(|(i, line)| (i + 1, line.split('#').next().unwrap_or_default().trim()))
        .filter(|(_, line)| !line.is_empty());
    let mut head = Head::default();
    let mut last = 1;
    loop {
        let Some((number, line)) = lines.next() else {
            return Err(ParseError { line: last, problem: "there is no `begin`".to_owned() });
        };
        last = number;
        if line == "begin" {
            break;
        }
        head.line(line).map_err(|problem| ParseError { line: number, problem })?;
    }
    let steps: Vec<(usize, &str)> = lines.collect();
    if steps.is_empty() {
        return Err(ParseError { line: last, problem: "there are no steps".to_owned() });
    }
    let choices = head.choices().map_err(|problem| ParseError { line: last, problem })?;
    let mut variants = Vec::with_capacity(choices.len());
    for choice in choices {
        let label =
            choice.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ");
        let read = steps.iter().map(|(number, text)| {
            let mut text = (*text).to_owned();
            for (name, value) in &choice {
                text = text.replace(&format!("${name}"), value);
            }
            match step(&text) {
                Ok(step) => Ok(Line { number: *number, text, step }),
                Err(problem) => Err(ParseError { line: *number, problem }),
            }
        });
        variants.push(Variant { label, steps: read.collect::<Result<_, _>>()? });
    }
    head.finish(variants).map_err(|problem| ParseError { line: last, problem })
}

#[derive(Default)]
struct Head {
    name: Option<String>,
    about: Option<String>,
    source: Option<String>,
    model: Option<Model>,
    stakes: Vec<Vec<u64>>,
    liar: Option<(u32, LieName)>,
    dead: Vec<u32>,
    catch_up_ms: Option<u64>,
    commit_max: Option<u32>,
    each: Vec<(String, Vec<String>)>,
}

impl Head {
    fn line(&mut self, line: &str) -> Parsed<()> {
        let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim();
        let words: Vec<&str> = rest.split_whitespace().collect();
        match (key, words.as_slice()) {
            ("scenario", [name]) => once(&mut self.name, (*name).to_owned(), key),
            ("about", [_, ..]) => once(&mut self.about, rest.to_owned(), key),
            ("source", [_, ..]) => once(&mut self.source, rest.to_owned(), key),
            ("model", ["any"]) => once(&mut self.model, Model::Any, key),
            ("model", ["crash"]) => once(&mut self.model, Model::One(FaultModel::Crash), key),
            ("model", ["byzantine"]) => once(&mut self.model, Model::One(FaultModel::Byzantine), key),
            ("stakes", [_, ..]) => {
                for part in rest.split('|') {
                    let stakes = part.split_whitespace().map(number).collect::<Parsed<Vec<u64>>>()?;
                    if stakes.is_empty() || stakes.contains(&0) {
                        return Err("a committee needs stakes of 1 or more".to_owned());
                    }
                    self.stakes.push(stakes);
                }
                Ok(())
            }
            ("liar", [node, lie]) => once(&mut self.liar, (number(node)? as u32, lie_name(lie)?), key),
            ("dead", [_, ..]) => {
                self.dead = words.iter().map(|w| number(w).map(|n| n as u32)).collect::<Parsed<_>>()?;
                Ok(())
            }
            ("catch-up", [time]) => once(&mut self.catch_up_ms, duration(time)?, key),
            ("commit-max", [most]) => once(&mut self.commit_max, number(most)? as u32, key),
            ("each", [name, values @ ..]) if !values.is_empty() => {
                self.each.push(((*name).to_owned(), values.iter().map(|v| (*v).to_owned()).collect()));
                Ok(())
            }
            _ => Err(format!("not understood before `begin`: `{line}`")),
        }
    }

    fn choices(&self) -> Parsed<Vec<Vec<(String, String)>>> {
        let mut choices = vec![Vec::new()];
        for (name, values) in &self.each {
            let longer = |choice: &Vec<(String, String)>, value: &String| {
                let mut choice = choice.clone();
                choice.push((name.clone(), value.clone()));
                choice
            };
            choices = choices.iter().flat_map(|c| values.iter().map(move |v| longer(c, v))).collect();
        }
        if choices.len() > VARIANTS_MAX {
            return Err(format!("{} variants; the limit is {VARIANTS_MAX}", choices.len()));
        }
        Ok(choices)
    }

    fn finish(self, variants: Vec<Variant>) -> Parsed<Scenario> {
        if self.stakes.is_empty() {
            return Err("there is no `stakes` line".to_owned());
        }
        Ok(Scenario {
            name: self.name.ok_or("there is no `scenario` line")?,
            about: self.about.ok_or("there is no `about` line")?,
            source: self.source,
            model: self.model.ok_or("there is no `model` line")?,
            stakes: self.stakes,
            liar: self.liar,
            dead: self.dead,
            catch_up_ms: self.catch_up_ms.unwrap_or(1_000),
            commit_max: self.commit_max.unwrap_or(4),
            variants,
        })
    }
}

fn once<T>(place: &mut Option<T>, value: T, key: &str) -> Parsed<()> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("`{key}` is given twice")),
    }
}

fn step(text: &str) -> Parsed<Step> {
    let (key, rest) = text.split_once(' ').unwrap_or((text, ""));
    let rest = rest.trim();
    let words: Vec<&str> = rest.split_whitespace().collect();
    match (key, words.as_slice()) {
        ("batches", [count, options @ ..]) => batches(number(count)?, options),
        ("run", [time]) => Ok(Step::Run(duration(time)?)),
        ("crash", _) => Ok(Step::Crash(nodes(&words)?)),
        ("restart", _) => Ok(Step::Restart(nodes(&words)?)),
        ("crash-at", _) => crash_at(&words),
        ("crash-often", [often]) => Ok(Step::CrashOften(number(often)?)),
        ("partition", [_, ..]) => Ok(Step::Partition(
            rest.split('|')
                .map(|part| nodes(&part.split_whitespace().collect::<Vec<_>>()))
                .collect::<Parsed<_>>()?,
        )),
        ("cut", _) => arrow(&words).map(|(from, to)| Step::Cut(from, to)),
        ("mend", _) => arrow(&words).map(|(from, to)| Step::Mend(from, to)),
        ("heal", []) => Ok(Step::Heal),
        ("drop", [kind, percentage, between @ ..]) => {
            let kind = match *kind {
                "votes" => Kind::Votes,
                "messages" => Kind::Messages,
                "all" => Kind::All,
                _ => return Err(format!("no such kind of message: `{kind}`")),
            };
            let between = if between.is_empty() { None } else { Some(arrow(between)?) };
            Ok(Step::Drop { kind, percent: percent(percentage)?, between })
        }
        ("links", _) => links(&words).map(Step::Links),
        ("pause", [who @ .., "for", time]) => Ok(Step::Pause(nodes(who)?, duration(time)?)),
        ("drain", _) => Ok(Step::Drain(nodes(&words)?)),
        ("shun", _) => Ok(Step::Shun(nodes(&words)?)),
        ("name", [name, "=", who @ ..]) => Ok(Step::Name((*name).to_owned(), nodes(who)?)),
        ("mark", []) => Ok(Step::Mark),
        ("expect", _) => Ok(Step::Expect(expect(&words)?)),
        ("until", [what @ .., "within", time]) => Ok(Step::Until(expect(what)?, duration(time)?)),
        ("settle", [time]) => Ok(Step::Settle(duration(time)?)),
        _ => Err(format!("not understood: `{text}`")),
    }
}

fn batches(count: u64, options: &[&str]) -> Parsed<Step> {
    let (mut at, mut private, mut over_ms) = (None, false, 0);
    let mut rest = options;
    while let [word, tail @ ..] = rest {
        rest = match *word {
            "private" => {
                private = true;
                tail
            }
            "over" => {
                over_ms = duration(tail.first().ok_or("`over` needs a time")?)?;
                &tail[1..]
            }
            "at" => {
                let end = tail.iter().position(|w| ["private", "over"].contains(w)).unwrap_or(tail.len());
                at = Some(nodes(&tail[..end])?);
                &tail[end..]
            }
            other => return Err(format!("not understood after `batches`: `{other}`")),
        };
    }
    Ok(Step::Batches { count, at, private, over_ms })
}

fn crash_at(words: &[&str]) -> Parsed<Step> {
    let (words, back_ms) = match words {
        [rest @ .., "back", time] => (rest, Some(duration(time)?)),
        _ => (words, None),
    };
    let [who @ .., nth, point] = words else {
        return Err("`crash-at NODES NTH POINT [back TIME]`".to_owned());
    };
    let point = match *point {
        "before" => Point::Before,
        "guard" => Point::Guard,
        "torn" => Point::Torn,
        "synced" => Point::Synced,
        "sent" => Point::Sent,
        _ => return Err(format!("no such point: `{point}`")),
    };
    Ok(Step::CrashAt { nodes: nodes(who)?, nth: number(nth)?, point, back_ms })
}

fn links(words: &[&str]) -> Parsed<Links> {
    Ok(match words {
        ["delay", low, high] => Links::Delay(duration(low)?, duration(high)?),
        ["loss", percentage] => Links::Loss(percent(percentage)?),
        ["duplicates", percentage] => Links::Duplicates(percent(percentage)?),
        ["late-batches", percentage] => Links::LateBatches(percent(percentage)?),
        ["late-timers", time] => Links::LateTimers(duration(time)?),
        _ => return Err(format!("not understood after `links`: `{}`", words.join(" "))),
    })
}

fn expect(words: &[&str]) -> Parsed<Expect> {
    Ok(match words {
        ["committed", compare, count, "on", on @ ..] => {
            Expect::Committed { compare: comparison(compare)?, count: number(count)?, on: nodes(on)? }
        }
        ["final", compare, count, "on", on @ ..] => {
            Expect::Final { compare: comparison(compare)?, count: number(count)?, on: nodes(on)? }
        }
        ["progress", "on", on @ ..] => Expect::Progress { on: nodes(on)? },
        ["no", "progress", "on", on @ ..] => Expect::NoProgress { on: nodes(on)? },
        ["leader", "in", who @ ..] => Expect::LeaderIn(nodes(who)?),
        ["leader", "not", "in", who @ ..] => Expect::LeaderNotIn(nodes(who)?),
        ["same", "on", on @ ..] => Expect::Same { on: nodes(on)? },
        ["empty", "commits", compare, count] => {
            Expect::EmptyCommits { compare: comparison(compare)?, count: number(count)? }
        }
        ["all", "final"] => Expect::AllFinal,
        ["happened", what @ ..] if !what.is_empty() => Expect::Happened(what.join(" ")),
        _ => return Err(format!("not understood as an expectation: `{}`", words.join(" "))),
    })
}

fn comparison(word: &str) -> Parsed<Compare> {
    match word {
        ">=" => Ok(Compare::AtLeast),
        "<=" => Ok(Compare::AtMost),
        "==" => Ok(Compare::Equal),
        _ => Err(format!("`>=`, `<=` or `==` instead of `{word}`")),
    }
}

fn arrow(words: &[&str]) -> Parsed<(Nodes, Nodes)> {
    let at = words.iter().position(|word| *word == "->").ok_or("`NODES -> NODES`")?;
    Ok((nodes(&words[..at])?, nodes(&words[at + 1..])?))
}

fn nodes(words: &[&str]) -> Parsed<Nodes> {
    let (not, words) = match words {
        ["not", rest @ ..] => (true, rest),
        _ => (false, words),
    };
    if words.is_empty() {
        return Err("no node is named".to_owned());
    }
    let atom = |word: &&str| match *word {
        "all" => Ok(Atom::All),
        "leader" => Ok(Atom::Leader),
        "up" => Ok(Atom::Up),
        "down" => Ok(Atom::Down),
        word if word.starts_with(|c: char| c.is_ascii_digit()) => number(word).map(|n| Atom::Index(n as u32)),
        word if word.len() == 2 && word.starts_with('f') && word.as_bytes()[1].is_ascii_digit() => {
            number(&word[1..]).map(|n| Atom::Follower(n as u32))
        }
        word if word.chars().all(|c| c.is_ascii_lowercase() || c == '-') => Ok(Atom::Name(word.to_owned())),
        word => Err(format!("no such node: `{word}`")),
    };
    Ok(Nodes { not, atoms: words.iter().map(atom).collect::<Parsed<_>>()? })
}

fn lie_name(word: &str) -> Parsed<LieName> {
    Ok(match word {
        "silent" => LieName::Silent,
        "twins" => LieName::Twins,
        "garble" => LieName::Garble,
        "flip" => LieName::Flip,
        "replay" => LieName::Replay,
        "amnesia" => LieName::Amnesia,
        _ => return Err(format!("no such lie: `{word}`")),
    })
}

fn number(word: &str) -> Parsed<u64> {
    word.parse().map_err(|_| format!("a number instead of `{word}`"))
}

fn percent(word: &str) -> Parsed<u64> {
    let value = word.strip_suffix('%').ok_or(format!("a percentage instead of `{word}`"))?;
    number(value).and_then(|n| if n <= 100 { Ok(n) } else { Err(format!("{n}% is more than all")) })
}

fn duration(word: &str) -> Parsed<u64> {
    match (word.strip_suffix("ms"), word.strip_suffix('s')) {
        (Some(ms), _) => number(ms),
        (None, Some(seconds)) => number(seconds).map(|n| n * 1_000),
        (None, None) => Err(format!("a time such as `500ms` or `2s` instead of `{word}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    const HEAD: &str = "scenario s\nabout nothing\nmodel any\nstakes 1 1 1 1\n";

    #[test]
    fn every_choice_of_each_gives_a_variant() {
        let text = format!("{HEAD}each n 1 2 3\neach p before sent\nbegin\ncrash-at leader $n $p back 1s\n");
        let scenario = parse(&text).unwrap();
        let labels: Vec<_> = scenario.variants.iter().map(|v| v.label.as_str()).collect();
        assert_eq!(labels.len(), 6);
        assert_eq!(labels[1], "n=1 p=sent");
        assert_eq!(scenario.variants[5].steps[0].text, "crash-at leader 3 sent back 1s");
    }

    #[test]
    fn an_error_names_its_line() {
        for (text, line, problem) in [
            ("", 1, "no `begin`"),
            ("scenario s\n", 1, "no `begin`"),
            ("scenario s\nscenario t\nbegin\nheal\n", 2, "twice"),
            ("bogus\n", 1, "not understood"),
            (&format!("{HEAD}begin\n"), 5, "no steps"),
            (&format!("{HEAD}begin\nheal\nheal now\n"), 7, "not understood"),
            (&format!("{HEAD}begin\nrun 5\n"), 6, "a time"),
            (&format!("{HEAD}begin\nrun 5x\n"), 6, "a time"),
            (&format!("{HEAD}begin\ncrash\n"), 6, "no node"),
            (&format!("{HEAD}begin\ncrash LEADER\n"), 6, "no such node"),
            (&format!("{HEAD}begin\nlinks loss 101%\n"), 6, "more than all"),
            (&format!("{HEAD}begin\nexpect committed > 3 on all\n"), 6, "instead of `>`"),
            (&format!("{HEAD}begin\n\n# hm\ndrop words 10%\n"), 8, "no such kind"),
            (&format!("{HEAD}liar 0 politician\nbegin\nheal\n"), 5, "no such lie"),
            ("scenario s\nabout nothing\nmodel any\nbegin\nheal\n", 4, "no `stakes`"),
            (&format!("{HEAD}each n 1\nbegin\nrun $m\n"), 7, "a time"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.line == line && error.problem.contains(problem), "{text:?}: {error}");
        }
    }
}
