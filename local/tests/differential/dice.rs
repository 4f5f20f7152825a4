//! Chance that can be repeated: the same seed gives the same throws.

/// Throws from a seed.
#[derive(Debug)]
pub struct Dice(fastrand::Rng);

impl Dice {
    pub fn of(seed: u64) -> Dice {
        Dice(fastrand::Rng::with_seed(seed))
    }

    /// True in so many of a hundred throws.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.0.u32(..100) < percent
    }

    /// From `low` up to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        self.0.usize(low..=high)
    }

    /// One of them; there must be one.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.0.usize(..from.len())]
    }

    /// One of them, if there is one.
    pub fn pick_any<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| self.pick(from).clone())
    }

    /// So many of them, in their order.
    pub fn some<T: Clone>(&mut self, from: &[T], count: usize) -> Vec<T> {
        let mut places: Vec<_> = (0..from.len()).collect();
        self.0.shuffle(&mut places);
        places.truncate(count);
        places.sort_unstable();
        places
            .into_iter()
            .map(|place| from[place].clone())
            .collect()
    }
}
