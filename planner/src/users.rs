//! Sets of targets, small enough to be copied and compared for every op.

use crate::TargetId;

/// The targets that need something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Users([u64; Users::MAX / 64]);

impl Users {
    /// The greatest number of targets.
    pub const MAX: usize = 256;

    pub fn insert(&mut self, target: TargetId) {
        let place = target.index();
        if let Some(word) = self.0.get_mut(place / 64) {
            *word |= 1 << (place % 64);
        }
    }

    pub fn extend(&mut self, others: Self) {
        for (word, other) in self.0.iter_mut().zip(others.0) {
            *word |= other;
        }
    }

    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    pub fn iter(self) -> impl Iterator<Item = TargetId> {
        (0..Self::MAX)
            .filter(move |place| self.0[place / 64] >> (place % 64) & 1 == 1)
            .map(|place| TargetId(place as u32))
    }
}

impl FromIterator<TargetId> for Users {
    fn from_iter<I: IntoIterator<Item = TargetId>>(targets: I) -> Self {
        let mut users = Self::default();
        targets.into_iter().for_each(|target| users.insert(target));
        users
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_in_order() {
        let users: Users = [TargetId(255), TargetId(0), TargetId(64), TargetId(0)]
            .into_iter()
            .collect();
        assert_eq!(
            users.iter().collect::<Vec<_>>(),
            [TargetId(0), TargetId(64), TargetId(255)]
        );
        assert_eq!(users.len(), 3);
    }
}
