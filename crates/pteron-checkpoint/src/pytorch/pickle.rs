//! A machine for the part of pickle's language that `torch.save` writes, protocols 2 to 5. It makes a tree of plain
//! values and tensor descriptions; it has no way to call anything. The opcodes are those of CPython's `pickletools`.

use std::collections::BTreeMap;
use std::path::Path;

use pteron_tensor::Shape;

use super::globals::{Global, Scalar};
use crate::error::{CheckpointError, Shown};
use crate::limits::{MAX_PICKLE_DEPTH, MAX_PICKLE_MEMO, MAX_PICKLE_OPCODES, MAX_PICKLE_VALUES, MAX_RANK};

/// A value, of 16 bytes. Containers are places in the tables of [`Pickled`], so that cycles and depth cost nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// A span of the pickle's bytes that is UTF-8.
    Text {
        start: u32,
        len: u32,
    },
    /// A float, a long integer, bytes, a device: nothing that is looked at.
    Opaque,
    /// A span of `items`.
    Tuple {
        start: u32,
        len: u32,
    },
    List(u32),
    Dict(u32),
    Global(Global),
    Storage(u32),
    Tensor(u32),
}

/// A storage: an entry `data/KEY` of the archive.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Storage {
    pub(super) key: String,
    /// `None` for a storage of bytes.
    pub(super) scalar: Option<Scalar>,
    /// Elements, or bytes where there is no element type.
    pub(super) numel: u64,
}

/// A view of a storage.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    pub(super) storage: u32,
    pub(super) scalar: Scalar,
    /// In elements, as the strides.
    pub(super) offset: u64,
    pub(super) sizes: Shape,
    pub(super) strides: Shape,
}

/// What a pickle holds.
#[derive(Debug, Default)]
pub(super) struct Pickled {
    items: Vec<Value>,
    lists: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
    pub(super) storages: Vec<Storage>,
    pub(super) tensors: Vec<Tensor>,
    by_key: BTreeMap<String, u32>,
}

impl Pickled {
    pub(super) fn tuple(&self, start: u32, len: u32) -> &[Value] {
        let start = start as usize;
        self.items.get(start..start.saturating_add(len as usize)).unwrap_or(&[])
    }
    pub(super) fn list(&self, list: u32) -> &[Value] {
        self.lists.get(list as usize).map_or(&[], Vec::as_slice)
    }
    pub(super) fn dict(&self, dict: u32) -> &[(Value, Value)] {
        self.dicts.get(dict as usize).map_or(&[], Vec::as_slice)
    }
}

/// The text of a value in the pickle's `bytes`; `None` if it is none.
pub(super) fn text(bytes: &[u8], value: Value) -> Option<&str> {
    let Value::Text { start, len } = value else { return None };
    let start = start as usize;
    std::str::from_utf8(bytes.get(start..start.checked_add(len as usize)?)?).ok()
}

/// Runs the pickle `bytes` of the archive `path` and gives the value that it leaves.
///
/// # Errors
/// [`CheckpointError::ForeignGlobal`], [`CheckpointError::Pickle`] or [`CheckpointError::TooLarge`].
pub(super) fn run(path: &Path, bytes: &[u8]) -> Result<(Pickled, Value), CheckpointError> {
    let mut machine = Machine {
        path,
        bytes,
        at: 0,
        opcode_at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        made: 0,
        out: Pickled::default(),
    };
    let root = machine.run()?;
    Ok((machine.out, root))
}

struct Machine<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
    opcode_at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: Vec<Option<Value>>,
    /// Values put anywhere so far.
    made: u64,
    out: Pickled,
}

type Outcome<T = ()> = Result<T, CheckpointError>;

impl<'a> Machine<'a> {
    fn fail(&self, reason: impl Into<String>) -> CheckpointError {
        let reason = format!("{} (at byte {})", reason.into(), self.opcode_at);
        CheckpointError::Pickle { path: self.path.to_owned(), reason }
    }

    fn too_large(&self, what: &'static str, found: u64, limit: u64) -> CheckpointError {
        CheckpointError::TooLarge { path: self.path.to_owned(), what, found, limit }
    }

    fn run(&mut self) -> Outcome<Value> {
        if !matches!(self.bytes, [0x80, 2..=5, ..]) {
            return Err(self.fail("it does not begin as one of protocol 2 to 5"));
        }
        self.at = 2;
        let mut opcodes = 0u64;
        loop {
            self.opcode_at = self.at;
            opcodes += 1;
            if opcodes > MAX_PICKLE_OPCODES {
                return Err(self.too_large("the number of the pickle's opcodes", opcodes, MAX_PICKLE_OPCODES));
            }
            let [opcode] = self.array::<1>()?;
            if opcode == b'.' {
                break;
            }
            self.step(opcode)?;
        }
        if self.at != self.bytes.len() {
            return Err(self.fail(format!("{} bytes follow its end", self.bytes.len() - self.at)));
        }
        match (self.stack.as_slice(), self.marks.is_empty()) {
            ([only], true) => Ok(*only),
            _ => Err(self.fail("it does not end with one value")),
        }
    }

    fn step(&mut self, opcode: u8) -> Outcome {
        match opcode {
            // Frames only say how far to read ahead.
            0x95 => self.take_u64().map(|_| ()),
            b'(' => {
                if self.marks.len() as u64 == MAX_PICKLE_DEPTH {
                    let found = MAX_PICKLE_DEPTH + 1;
                    return Err(self.too_large("the nesting of the pickle", found, MAX_PICKLE_DEPTH));
                }
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(|_| ()),
            b'1' => self.pop_to_mark().map(|_| ()),
            b'2' => {
                let top = self.pop()?;
                self.push(top)?;
                self.push(top)
            }
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' => {
                let n = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(i64::from(n)))
            }
            b'K' => {
                let [n] = self.array()?;
                self.push(Value::Int(i64::from(n)))
            }
            b'M' => {
                let n = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(i64::from(n)))
            }
            0x8a => {
                let [n] = self.array()?;
                let digits = self.take(usize::from(n))?;
                self.push(long(digits))
            }
            0x8b => {
                let n = self.take_u32()?;
                let digits = self.take(n)?;
                self.push(long(digits))
            }
            b'G' => {
                self.take(8)?;
                self.push(Value::Opaque)
            }
            0x8c => {
                let [n] = self.array()?;
                self.push_text(usize::from(n))
            }
            b'X' => {
                let n = self.take_u32()?;
                self.push_text(n)
            }
            0x8d => {
                let n = self.take_u64()?;
                self.push_text(n)
            }
            // Strings of Python 2, which are text where they are looked at.
            b'U' => {
                let [n] = self.array()?;
                self.push_string(usize::from(n))
            }
            b'T' => {
                let n = self.take_u32()?;
                self.push_string(n)
            }
            b'C' => {
                let [n] = self.array()?;
                self.push_bytes(usize::from(n))
            }
            b'B' => {
                let n = self.take_u32()?;
                self.push_bytes(n)
            }
            0x8e | 0x96 => {
                let n = self.take_u64()?;
                self.push_bytes(n)
            }
            b')' => self.push(Value::Tuple { start: 0, len: 0 }),
            b't' => {
                let from = self.pop_to_mark()?;
                self.push_tuple(from)
            }
            0x85..=0x87 => {
                let n = usize::from(opcode - 0x84);
                let bottom = self.marks.last().copied().unwrap_or(0);
                let from = self.stack.len().checked_sub(n).filter(|&from| from >= bottom);
                let from = from.ok_or_else(|| self.fail("it takes from an empty stack"))?;
                let values = self.stack.split_off(from);
                self.push_tuple(values)
            }
            b']' | 0x8f => {
                let list = self.new_list(Vec::new())?;
                self.push(list)
            }
            b'a' => {
                let value = self.pop()?;
                self.append(vec![value])
            }
            b'e' | 0x90 => {
                let values = self.pop_to_mark()?;
                self.append(values)
            }
            0x91 => {
                let values = self.pop_to_mark()?;
                let list = self.new_list(values)?;
                self.push(list)
            }
            b'}' => {
                let dict = self.new_dict()?;
                self.push(dict)
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])
            }
            b'u' => {
                let values = self.pop_to_mark()?;
                self.set_items(&values)
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push_global(module, name)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (module, name) = (text(self.bytes, module), text(self.bytes, name));
                match (module, name) {
                    (Some(module), Some(name)) => self.push_global(module, name),
                    _ => Err(self.fail("a name is not text")),
                }
            }
            b'R' => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                let made = self.reduce(callable, arguments)?;
                self.push(made)
            }
            b'b' => {
                let state = self.pop()?;
                match (self.stack.last(), state) {
                    // The attributes of a dictionary, such as the `_metadata` of a state dict.
                    (Some(Value::Dict(_)), Value::Dict(_)) => Ok(()),
                    _ => Err(self.fail("it sets the state of something that is no dictionary")),
                }
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(storage)
            }
            b'h' => {
                let [n] = self.array()?;
                self.get(usize::from(n))
            }
            b'j' => {
                let n = self.take_u32()?;
                self.get(n)
            }
            b'q' => {
                let [n] = self.array()?;
                self.put(usize::from(n))
            }
            b'r' => {
                let n = self.take_u32()?;
                self.put(n)
            }
            0x94 => self.put(self.memo.len()),
            other => {
                let name = match other {
                    b'i' => " (INST)",
                    b'o' => " (OBJ)",
                    b'P' => " (PERSID)",
                    0x81 => " (NEWOBJ)",
                    0x92 => " (NEWOBJ_EX)",
                    0x82..=0x84 => " (EXT)",
                    _ => "",
                };
                Err(self.fail(format!("the opcode 0x{other:02x}{name} is not one that torch.save writes")))
            }
        }
    }

    fn take(&mut self, n: usize) -> Outcome<&'a [u8]> {
        let end = self.at.checked_add(n);
        let span = end.and_then(|end| self.bytes.get(self.at..end));
        let span = span.ok_or_else(|| self.fail("it is cut short"))?;
        self.at += n;
        Ok(span)
    }

    fn array<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn take_u32(&mut self) -> Outcome<usize> {
        // Too large a length is told when the bytes are taken.
        Ok(usize::try_from(u32::from_le_bytes(self.array()?)).unwrap_or(usize::MAX))
    }

    fn take_u64(&mut self) -> Outcome<usize> {
        Ok(usize::try_from(u64::from_le_bytes(self.array()?)).unwrap_or(usize::MAX))
    }

    /// Text up to the end of the line.
    fn line(&mut self) -> Outcome<&'a str> {
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        let n = rest.iter().position(|&b| b == b'\n').ok_or_else(|| self.fail("it is cut short"))?;
        let line = self.take(n)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|_| self.fail("a name is not UTF-8"))
    }

    fn count(&mut self, n: usize) -> Outcome {
        self.made = self.made.saturating_add(n as u64);
        if self.made > MAX_PICKLE_VALUES {
            return Err(self.too_large("the number of the pickle's values", self.made, MAX_PICKLE_VALUES));
        }
        Ok(())
    }

    fn push(&mut self, value: Value) -> Outcome {
        self.count(1)?;
        self.stack.push(value);
        Ok(())
    }

    /// The length of text was given: takes it and checks it.
    fn push_text(&mut self, n: usize) -> Outcome {
        let start = self.at;
        std::str::from_utf8(self.take(n)?).map_err(|_| self.fail("a text is not UTF-8"))?;
        self.push(span(start, n))
    }

    fn push_string(&mut self, n: usize) -> Outcome {
        let start = self.at;
        let is_text = self.take(n)?.is_ascii();
        self.push(if is_text { span(start, n) } else { Value::Opaque })
    }

    fn push_bytes(&mut self, n: usize) -> Outcome {
        self.take(n)?;
        self.push(Value::Opaque)
    }

    fn push_tuple(&mut self, values: Vec<Value>) -> Outcome {
        self.count(values.len())?;
        let start = self.out.items.len();
        let len = values.len();
        self.out.items.extend(values);
        self.push(Value::Tuple { start: place(start), len: place(len) })
    }

    fn new_list(&mut self, values: Vec<Value>) -> Outcome<Value> {
        self.count(values.len().saturating_add(2))?;
        self.out.lists.push(values);
        Ok(Value::List(place(self.out.lists.len() - 1)))
    }

    fn new_dict(&mut self) -> Outcome<Value> {
        self.count(2)?;
        self.out.dicts.push(Vec::new());
        Ok(Value::Dict(place(self.out.dicts.len() - 1)))
    }

    fn pop(&mut self) -> Outcome<Value> {
        let bottom = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= bottom {
            return Err(self.fail("it takes from an empty stack"));
        }
        self.stack.pop().ok_or_else(|| self.fail("it takes from an empty stack"))
    }

    fn pop_to_mark(&mut self) -> Outcome<Vec<Value>> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len());
        let mark = mark.ok_or_else(|| self.fail("it takes up to a mark that is not there"))?;
        Ok(self.stack.split_off(mark))
    }

    /// Appends to the list on top of the stack.
    fn append(&mut self, values: Vec<Value>) -> Outcome {
        self.count(values.len())?;
        let list = match self.stack.last() {
            Some(Value::List(list)) => self.out.lists.get_mut(*list as usize),
            _ => None,
        };
        match list {
            Some(list) => {
                list.extend(values);
                Ok(())
            }
            None => Err(self.fail("it appends to something that is no list")),
        }
    }

    /// Sets keys and values, in turn, of the dictionary on top of the stack.
    fn set_items(&mut self, values: &[Value]) -> Outcome {
        self.count(values.len())?;
        let (pairs, []) = values.as_chunks::<2>() else { return Err(self.fail("a key has no value")) };
        let dict = match self.stack.last() {
            Some(Value::Dict(dict)) => self.out.dicts.get_mut(*dict as usize),
            _ => None,
        };
        match dict {
            Some(dict) => {
                dict.extend(pairs.iter().map(|&[key, value]| (key, value)));
                Ok(())
            }
            None => Err(self.fail("it sets items of something that is no dictionary")),
        }
    }

    fn get(&mut self, at: usize) -> Outcome {
        match self.memo.get(at) {
            Some(Some(value)) => self.push(*value),
            _ => Err(self.fail(format!("it recalls value {at}, which was not stored"))),
        }
    }

    fn put(&mut self, at: usize) -> Outcome {
        let top = *self.stack.last().ok_or_else(|| self.fail("it takes from an empty stack"))?;
        if at as u64 >= MAX_PICKLE_MEMO {
            return Err(self.too_large("the number of the pickle's stored values", at as u64 + 1, MAX_PICKLE_MEMO));
        }
        if at >= self.memo.len() {
            self.memo.resize(at + 1, None);
        }
        if let Some(slot) = self.memo.get_mut(at) {
            *slot = Some(top);
        }
        Ok(())
    }

    fn push_global(&mut self, module: &str, name: &str) -> Outcome {
        match Global::find(module, name) {
            Some(global) => self.push(Value::Global(global)),
            None => {
                Err(CheckpointError::ForeignGlobal { path: self.path.to_owned(), global: format!("{module}.{name}") })
            }
        }
    }

    fn values(&self, value: Value) -> Outcome<Vec<Value>> {
        match value {
            Value::Tuple { start, len } => Ok(self.out.tuple(start, len).to_vec()),
            _ => Err(self.fail("the arguments are no tuple")),
        }
    }

    fn reduce(&mut self, callable: Value, arguments: Value) -> Outcome<Value> {
        let Value::Global(global) = callable else { return Err(self.fail("it calls something that is no name")) };
        let arguments = self.values(arguments)?;
        match (global, arguments.as_slice()) {
            (Global::OrderedDict, []) => self.new_dict(),
            // Python 2 gives the items at once.
            (Global::OrderedDict, [Value::List(items)]) => {
                let items = self.out.list(*items).to_vec();
                self.count(items.len().saturating_mul(2))?;
                let pair = |item: &Value| match self.pair_of(*item) {
                    Some(&[key, value]) => Ok((key, value)),
                    _ => Err(self.fail("an item of a dictionary is no pair")),
                };
                let pairs = items.iter().map(pair).collect::<Outcome<Vec<_>>>()?;
                let dict = self.new_dict()?;
                if let Some(last) = self.out.dicts.last_mut() {
                    *last = pairs;
                }
                Ok(dict)
            }
            (Global::Set, [list @ Value::List(_)]) => Ok(*list),
            (Global::Size, [sizes @ Value::Tuple { .. }]) => Ok(*sizes),
            (Global::Device, _) => Ok(Value::Opaque),
            (Global::RebuildTensor, [storage, offset, sizes, strides, rest @ ..]) => {
                // requires_grad, hooks, metadata
                self.check_metadata(rest.get(2))?;
                self.tensor(*storage, [*offset, *sizes, *strides], None)
            }
            (
                Global::RebuildTensorV3,
                [storage, offset, sizes, strides, _, _, Value::Global(Global::Dtype(s)), rest @ ..],
            ) => {
                self.check_metadata(rest.first())?;
                self.tensor(*storage, [*offset, *sizes, *strides], Some(*s))
            }
            (Global::RebuildParameter, [tensor @ Value::Tensor(_), ..]) => Ok(*tensor),
            (
                Global::RebuildFromType,
                [
                    function
                    @ Value::Global(Global::RebuildTensor | Global::RebuildTensorV3 | Global::RebuildParameter),
                    Value::Global(Global::TensorClass),
                    inner,
                    _,
                ],
            ) => self.reduce(*function, *inner),
            (found, _) => Err(self.fail(format!("the arguments of {found:?} are not those that torch.save writes"))),
        }
    }

    fn pair_of(&self, item: Value) -> Option<&[Value; 2]> {
        let items = match item {
            Value::Tuple { start, len } => self.out.tuple(start, len),
            Value::List(list) => self.out.list(list),
            _ => return None,
        };
        items.try_into().ok()
    }

    /// A tensor may say that it is negated or conjugated when it is read.
    fn check_metadata(&self, metadata: Option<&Value>) -> Outcome {
        match metadata {
            None | Some(Value::None) => Ok(()),
            Some(Value::Dict(dict)) => {
                let set = self.out.dict(*dict).iter().any(|(_, value)| *value != Value::Bool(false));
                if set { Err(self.fail("a tensor is to be conjugated or negated when it is read")) } else { Ok(()) }
            }
            Some(_) => Err(self.fail("the metadata of a tensor is no dictionary")),
        }
    }

    /// `('storage', class, key, location, number of elements)`.
    fn storage(&mut self, id: Value) -> Outcome<Value> {
        let id = self.values(id)?;
        let [kind, Value::Global(class), key, _location, Value::Int(numel)] = id.as_slice() else {
            return Err(self.fail("a persistent id is not that of a storage"));
        };
        let scalar = match class {
            Global::Storage(scalar) => Some(*scalar),
            Global::UntypedStorage => None,
            _ => return Err(self.fail("the class of a storage is none")),
        };
        let key = text(self.bytes, *key).filter(|k| !k.is_empty() && k.len() <= 64 && !k.contains(['/', '\0']));
        let (Some("storage"), Some(key), Ok(numel)) = (text(self.bytes, *kind), key, u64::try_from(*numel)) else {
            return Err(self.fail("a persistent id is not that of a storage"));
        };
        let storage = Storage { key: key.to_owned(), scalar, numel };
        if let Some(&known) = self.out.by_key.get(key) {
            if self.out.storages.get(known as usize) != Some(&storage) {
                return Err(self.fail(format!("the storage `{}` is described in two ways", Shown(key))));
            }
            return Ok(Value::Storage(known));
        }
        // The strings' bytes.
        self.count(14)?;
        let at = place(self.out.storages.len());
        self.out.storages.push(storage);
        self.out.by_key.insert(key.to_owned(), at);
        Ok(Value::Storage(at))
    }

    fn tensor(
        &mut self,
        storage: Value,
        [offset, sizes, strides]: [Value; 3],
        scalar: Option<Scalar>,
    ) -> Outcome<Value> {
        let wrong = |what: &str| self.fail(format!("the {what} of a tensor is not what torch.save writes"));
        let Value::Storage(at) = storage else { return Err(wrong("storage")) };
        let declared = self.out.storages.get(at as usize).and_then(|s| s.scalar);
        let scalar = scalar.or(declared).ok_or_else(|| wrong("element type"))?;
        let natural = |value: &Value| match value {
            Value::Int(n) => u64::try_from(*n).ok(),
            _ => None,
        };
        let shape = |value: Value| -> Option<Shape> {
            let values = self.values(value).ok().filter(|v| v.len() <= MAX_RANK)?;
            values.iter().map(|v| natural(v).and_then(|n| usize::try_from(n).ok())).collect()
        };
        let offset = natural(&offset).ok_or_else(|| wrong("offset"))?;
        let sizes = shape(sizes).ok_or_else(|| wrong("shape"))?;
        let strides = shape(strides).filter(|s| s.len() == sizes.len()).ok_or_else(|| wrong("strides"))?;
        self.count(10)?;
        self.out.tensors.push(Tensor { storage: at, scalar, offset, sizes, strides });
        Ok(Value::Tensor(place(self.out.tensors.len() - 1)))
    }
}

/// A place in a table: all are below [`MAX_PICKLE_VALUES`], and the bytes below the limit on a pickle's size.
fn place(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn span(start: usize, len: usize) -> Value {
    Value::Text { start: place(start), len: place(len) }
}

/// A little-endian two's complement number of any length.
fn long(digits: &[u8]) -> Value {
    let fill = if digits.last().is_some_and(|b| b & 0x80 != 0) { 0xFF } else { 0 };
    let mut bytes = [fill; 8];
    match bytes.get_mut(..digits.len()) {
        Some(low) => {
            low.copy_from_slice(digits);
            Value::Int(i64::from_le_bytes(bytes))
        }
        None => Value::Opaque,
    }
}
