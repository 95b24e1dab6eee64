//! A table whose rows keep their number until they are removed.
//!
//! Numbers are given out again, lowest first never promised; who needs to tell
//! an old holder of a number from a new one stores a generation in the row.

/// Rows by number.
#[derive(Debug)]
pub struct Slab<T> {
    rows: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Adds `row` and returns its number.
    pub fn insert(&mut self, row: T) -> u32 {
        match self.free.pop() {
            Some(key) => {
                self.rows[key as usize] = Some(row);
                key
            }
            None => {
                self.rows.push(Some(row));
                u32::try_from(self.rows.len() - 1).expect("a slab has under 2^32 rows")
            }
        }
    }

    /// Removes row `key` and returns it, if it is there.
    pub fn remove(&mut self, key: u32) -> Option<T> {
        let row = self.rows.get_mut(key as usize)?.take()?;
        self.free.push(key);
        Some(row)
    }

    /// Row `key`, if it is there.
    pub fn get(&self, key: u32) -> Option<&T> {
        self.rows.get(key as usize)?.as_ref()
    }

    /// Row `key`, if it is there, to change it.
    pub fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        self.rows.get_mut(key as usize)?.as_mut()
    }

    /// The number above all that were ever given out.
    pub fn end(&self) -> u32 {
        self.rows.len() as u32
    }

    /// All rows in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..).zip(&self.rows).filter_map(|(key, row)| Some((key, row.as_ref()?)))
    }

    /// All rows in the order of their numbers, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        (0..).zip(&mut self.rows).filter_map(|(key, row)| Some((key, row.as_mut()?)))
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len() - self.free.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_comes_back_only_after_its_row_is_removed() {
        let mut slab = Slab::default();
        let (a, b) = (slab.insert('a'), slab.insert('b'));
        assert_eq!(slab.remove(a), Some('a'));
        assert_eq!((slab.remove(a), slab.len()), (None, 1));
        assert_eq!(slab.insert('c'), a);
        assert_eq!(slab.iter().collect::<Vec<_>>(), [(a, &'c'), (b, &'b')]);
    }
}
