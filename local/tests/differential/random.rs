//! Random Dockerfiles through both.

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    generate::Case,
    material,
    outside::Outside,
    pair::{Agreed, Build, Pair, Request},
    workers::each,
};

/// How many there are unless the environment says otherwise.
pub const CASES: u64 = 30;
/// Builds wait more than they compute.
const AT_ONCE: usize = 3;

/// What came of all of them.
#[derive(Debug, Default)]
struct Outcomes {
    published: u64,
    failed_alike: u64,
    different: Vec<u64>,
    spent: Duration,
}

fn number(name: &str) -> Option<u64> {
    let value = env::var(name).ok().filter(|value| !value.is_empty())?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

#[test]
fn random_dockerfiles_give_the_same_image_as_on_one_engine() {
    let first = number("CROFT_FIRST_SEED").unwrap_or(1);
    let (seeds, shows) = match number("CROFT_SEED") {
        Some(seed) => (seed..seed + 1, true),
        None => (
            first..first + number("CROFT_DIFFERENTIAL").unwrap_or(CASES),
            false,
        ),
    };
    let outcomes = Mutex::new(Outcomes::default());
    let outside = Outside::of(Pair::shared());
    each(seeds.clone(), AT_ONCE, |seed| {
        one(seed, &outside, shows, &outcomes);
    });
    let outcomes = outcomes.into_inner().expect("no panic while it is held");
    let cases = seeds.end - seeds.start;
    println!(
        "{cases} builds: {} published the same, {} failed with the same words, {:?} are different; {:.1} s each",
        outcomes.published,
        outcomes.failed_alike,
        outcomes.different,
        outcomes.spent.as_secs_f64() / cases as f64
    );
    assert_eq!(
        outcomes.different, [0; 0],
        "CROFT_SEED=<n> builds one of them again"
    );
    // Else the Dockerfiles would prove nothing. Of a few, chance may have broken most.
    assert!(
        cases < CASES || outcomes.published * 10 >= cases * 6,
        "{outcomes:?}"
    );
}

fn one(seed: u64, outside: &Outside, shows: bool, outcomes: &Mutex<Outcomes>) {
    let pair = Pair::shared();
    let case = Case::of(seed, outside.surroundings.clone());
    let began = Instant::now();
    // A build that takes for ever, or an image that can't be read, is told with what made it.
    let outcome = catch_unwind(AssertUnwindSafe(|| build(pair, seed, &case)));
    let outcome = outcome.unwrap_or_else(|_| Err("it panicked, see above".to_owned()));
    let spent = began.elapsed();
    let mut outcomes = outcomes.lock().expect("no panic while it is held");
    outcomes.spent += spent;
    if shows {
        println!("{}", case.told());
    }
    println!(
        "seed {seed}: {:.1} s, {}",
        spent.as_secs_f64(),
        word(&outcome)
    );
    match outcome {
        Ok(Agreed::Published) => outcomes.published += 1,
        Ok(Agreed::Failed(words)) => {
            outcomes.failed_alike += 1;
            println!("{words}");
        }
        Err(difference) => {
            outcomes.different.push(seed);
            println!("CROFT_SEED={seed}\n{}{difference}", case.told());
        }
    }
}

fn word(outcome: &Result<Agreed, String>) -> &'static str {
    match outcome {
        Ok(Agreed::Published) => "the same",
        Ok(Agreed::Failed(_)) => "failed alike",
        Err(_) => "DIFFERENT",
    }
}

fn build(pair: &Pair, seed: u64, case: &Case) -> Result<Agreed, String> {
    let folder = TempDir::new().expect("a temporary folder");
    let (context, extra) = (folder.path().join("context"), folder.path().join("extra"));
    material::write(&extra, &case.extra);
    material::write(&context, &case.context);
    std::fs::write(folder.path().join("Dockerfile"), &case.dockerfile).expect("writable");
    let mut arguments = case.arguments.clone();
    arguments.push("--file=../Dockerfile".to_owned());
    arguments.push(format!("--build-context=extra={}", extra.display()));
    pair.build(&Build {
        name: &format!("seed-{seed}"),
        folder: &context,
        request: Request::Build,
        arguments: &arguments,
    })
}
