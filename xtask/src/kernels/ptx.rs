//! PTX: its version lowered, its names made independent of the folder, its inexact instructions counted.

use std::collections::BTreeMap;

/// Instructions of one function that an exact kernel must not have.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Inexact {
    /// Products added without a rounding between: `fma`, `mad` of floats, and those of tensor cores.
    pub fma: u64,
    /// Subnormals flushed to zero: `.ftz`.
    pub ftz: u64,
    /// Approximations: `.approx`.
    pub approx: u64,
    /// Division with 2 ulp of error: `div.full`.
    pub full: u64,
    /// Sums of floats by atomics, whose order is that of chance.
    pub atomic: u64,
}

impl Inexact {
    /// Adds the counts of another function.
    pub fn add(&mut self, other: &Self) {
        self.fma += other.fma;
        self.ftz += other.ftz;
        self.approx += other.approx;
        self.full += other.full;
        self.atomic += other.atomic;
    }

    fn count(&mut self, instruction: &str) {
        let opcode = opcode(instruction);
        let parts: Vec<&str> = opcode.split('.').collect();
        let float = ["f16", "f16x2", "bf16", "bf16x2", "f32", "f64"];
        let is_float = parts.iter().any(|part| float.contains(part));
        let has = |name: &str| u64::from(parts[1..].contains(&name));
        let fuses = ["mad", "mma", "wmma", "wgmma"].contains(&parts[0]) && is_float;
        self.fma += u64::from(parts[0] == "fma" || fuses);
        self.ftz += has("ftz");
        self.approx += has("approx");
        self.full += has("full");
        if is_float && ["atom", "red"].contains(&parts[0]) {
            self.atomic += has("add");
        }
    }
}

/// The text as it is assembled: `.version` lowered to `version`, and the hash of the folder that nvcc puts into the
/// names of what is internal to a unit set to zero.
pub fn normalize(text: &str, version: &str) -> Result<String, String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let line = lines
        .iter_mut()
        .find(|line| line.starts_with(".version "))
        .ok_or("nvcc wrote PTX without a .version line")?;
    *line = format!(".version {version}");
    let mut text = lines.join("\n") + "\n";
    for prefix in ["_INTERNAL_", "_GLOBAL__N__"] {
        text = without_hash(&text, prefix);
    }
    Ok(text)
}

/// Replaces the eight hexadecimal digits after each `prefix` by zeros.
fn without_hash(text: &str, prefix: &str) -> String {
    let mut parts = text.split(prefix);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out += prefix;
        let digits = part
            .bytes()
            .take_while(|b| b.is_ascii_hexdigit())
            .take(8)
            .count();
        if digits == 8 {
            out += "00000000";
            out += &part[8..];
        } else {
            out += part;
        }
    }
    out
}

/// A function of the PTX.
#[derive(Default)]
struct Function {
    is_entry: bool,
    own: Inexact,
    /// Every word of its body: what it calls is among them.
    words: Vec<String>,
}

/// The entry points, each with the inexact instructions in it and in whatever it calls.
pub fn entries(text: &str) -> Result<BTreeMap<String, Inexact>, String> {
    let functions = functions(text)?;
    let mut entries = BTreeMap::new();
    for (name, _) in functions.iter().filter(|(_, f)| f.is_entry) {
        let mut reached = vec![name];
        let mut total = Inexact::default();
        let mut next = 0;
        while let Some(function) = reached.get(next).and_then(|name| functions.get(*name)) {
            total.add(&function.own);
            for word in &function.words {
                if let Some((callee, _)) = functions.get_key_value(word)
                    && !reached.contains(&callee)
                {
                    reached.push(callee);
                }
            }
            next += 1;
        }
        entries.insert(name.clone(), total);
    }
    Ok(entries)
}

fn functions(text: &str) -> Result<BTreeMap<String, Function>, String> {
    let mut functions = BTreeMap::new();
    // Statements end with a semicolon or a brace; a head is what stands before the brace that opens a body.
    let (mut depth, mut statement, mut name) = (0_usize, String::new(), String::new());
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    for letter in code.chars() {
        if !matches!(letter, ';' | '{' | '}') {
            statement.push(letter);
            continue;
        }
        if depth == 0 && letter == '{' && !statement.contains('=') {
            let (head, is_entry) = head(&statement)?;
            name = head;
            let function = Function {
                is_entry,
                ..Function::default()
            };
            functions.insert(name.clone(), function);
        } else if depth > 0
            && let Some(function) = functions.get_mut(&name)
        {
            function.own.count(&statement);
            let words = statement.split(|c: char| !(c.is_alphanumeric() || "_$%.".contains(c)));
            function
                .words
                .extend(words.filter(|w| !w.is_empty()).map(str::to_owned));
        }
        statement.clear();
        match letter {
            '{' => depth += 1,
            '}' => {
                depth = depth.checked_sub(1).ok_or("the PTX has a brace too many")?;
                if depth == 0 {
                    name.clear();
                }
            }
            _ => {}
        }
    }
    if depth > 0 {
        return Err("the PTX ends within a function".to_owned());
    }
    Ok(functions)
}

/// The name in the head of a function, and whether it is an entry point.
fn head(text: &str) -> Result<(String, bool), String> {
    let unknown = || format!("a head of a function in the PTX was not understood: {text}");
    let (rest, is_entry) = match (text.split_once(".entry"), text.split_once(".func")) {
        (Some((_, rest)), _) => (rest, true),
        (None, Some((_, rest))) => (rest, false),
        (None, None) => return Err(unknown()),
    };
    let mut rest = rest.trim_start();
    // The result of a function stands before its name.
    if rest.starts_with('(') {
        rest = rest.split_once(')').ok_or_else(unknown)?.1.trim_start();
    }
    let name = rest
        .split(|c: char| c == '(' || c.is_whitespace())
        .next()
        .filter(|name| !name.is_empty())
        .ok_or_else(unknown)?;
    Ok((name.to_owned(), is_entry))
}

/// The first word of a statement, past labels and a predicate.
fn opcode(statement: &str) -> &str {
    statement
        .split_whitespace()
        .find(|word| !word.starts_with('@') && !word.ends_with(':'))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTX: &str = "// fma.rn.f32 in a comment
.version 9.0
.target sm_75
.const .align 4 .b8 _ZN32_INTERNAL_26b6d68b_6_all_cu_5tableE[8] = {0, 0, 128, 63};
.func (.param .b32 func_retval0) _ZN_INTERNAL_26b6d68b_2dvEff(
\t.param .b32 a
)
{
\tdiv.full.f32 %f3, %f1, %f2;
\tret;
}
.visible .entry exact(
\t.param .u64 exact_param_0
)
.maxntid 256, 1, 1
{
\tmad.lo.s32 %r1, %r2, %r3, %r4;
\tmul.rn.f32 %f1, %f2, %f3; add.rn.f32 %f1, %f2, %f3;
\t{cvt.rn.f16.f32 %rs1, %f1;}
\tatom.global.max.u32 %r1, [%rd1], %r2;
$L__BB0_2:
\tret;
}
.visible .entry bad()
{
$L__BB1_2: @%p1 fma.rn.f32 %f1, %f2, %f3, %f4;
\tmad.f32 %f1, %f2, %f3, %f4;
\tmma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f1, %f2}, {%r1}, {%r2}, {%f3, %f4};
\trcp.approx.ftz.f64 %fd1, %fd2;
\tred.global.add.f32 [%rd1], %f1;
\t{
\tcall.uni (retval0),
\t_ZN_INTERNAL_26b6d68b_2dvEff,
\t(param0);
\t}
}
";

    #[test]
    fn inexact_instructions_are_counted_through_calls() {
        let entries = entries(PTX).expect("entries");
        assert_eq!(entries.len(), 2);
        assert_eq!(entries["exact"], Inexact::default());
        let bad = Inexact {
            fma: 3,
            ftz: 1,
            approx: 1,
            full: 1,
            atomic: 1,
        };
        assert_eq!(entries["bad"], bad);
    }

    #[test]
    fn the_version_is_lowered_and_names_lose_the_folder() {
        let text = normalize(PTX, "8.0").expect("PTX");
        assert!(text.contains("\n.version 8.0\n") && !text.contains("9.0"));
        assert!(text.contains("_ZN32_INTERNAL_00000000_6_all_cu") && !text.contains("26b6d68b"));
        assert!(normalize("nothing", "8.0").is_err());
    }

    #[test]
    fn broken_text_is_refused() {
        assert!(entries(".entry f() {").is_err());
        assert!(entries("}").is_err());
        assert!(entries("nonsense {}").is_err());
    }
}
