"""Transition systems: actions with named guards and simultaneous updates, composed of modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from dmaproof.model.logic.terms import (
    FALSE,
    And,
    Atom,
    Eq,
    Fn,
    Formula,
    Kind,
    Not,
    Or,
    Quantified,
    Rel,
    Sort,
    Term,
    Truth,
    Var,
    and_,
    free_vars,
    functions,
    not_,
    or_,
    relations,
    substitute,
)


class Actor(StrEnum):
    """Who takes a step."""

    USER = "user"  # a call enters, or the user writes its own memory
    KERNEL = "kernel"  # a micro-step of a running call
    HARDWARE = "hardware"  # a cache fills or evicts
    PLATFORM = "platform"  # hot-add and the like


@dataclass(frozen=True)
class Guard:
    """A named condition of an action.

    Attributes:
        name: what is checked, for example ``group-is-singleton``.
        condition: must hold for the action to fire.
        errno: what the call returns when this is the first guard that fails ("" for a step that
            merely waits, such as for a lock).
        source: where the rule is written ("" for the order of a program).

    """

    name: str
    condition: Formula
    errno: str = ""
    source: str = ""


@dataclass(frozen=True)
class Update:
    """New content of one relation: ``rel'(x) = insert(x) or (rel(x) and not delete(x))``.

    Attributes:
        rel: the relation.
        variables: one per argument; `insert` and `delete` speak of them, of the action's
            parameters and of the state before.

    """

    rel: Rel
    variables: tuple[Var, ...]
    insert: Formula = FALSE
    delete: Formula = FALSE

    def __post_init__(self) -> None:
        if tuple(v.sort for v in self.variables) != self.rel.sorts:
            raise TypeError(f"update of {self.rel.name}: variables of the wrong sorts")
        if len(set(self.variables)) != len(self.variables):
            raise TypeError(f"update of {self.rel.name}: a variable stands for two arguments")
        if self.rel.kind is Kind.STATIC:
            raise TypeError(f"{self.rel.name} is static: no action may change it")

    def after(self, args: tuple[Term, ...]) -> Formula:
        """Return what `rel` of *args* is after the step, as a formula over the state before."""
        atom = self.rel(*args)  # tests number and sorts of the arguments
        mapping = dict(zip(self.variables, args, strict=True))
        insert, delete = substitute(self.insert, mapping), substitute(self.delete, mapping)
        return or_(insert, and_(atom, not_(delete)))

    def merged(self, other: Update) -> Update:
        """Both updates of one relation at once; what one inserts the other does not delete."""
        mapping: dict[Var, Term] = dict(zip(other.variables, self.variables, strict=True))
        return replace(
            self,
            insert=or_(self.insert, substitute(other.insert, mapping)),
            delete=or_(self.delete, substitute(other.delete, mapping)),
        )


def fresh_vars(rel: Rel) -> tuple[Var, ...]:
    """Variables for an update of *rel*, named so that nothing else clashes with them."""
    return tuple(Var(f"{rel.name}.{i}", s) for i, s in enumerate(rel.sorts))


def insert(rel: Rel, *args: Term, when: Formula | None = None) -> Update:
    """Add one tuple (if *when* holds before the step).

    Raises:
        TypeError: wrong number or sorts of arguments.

    """
    xs = fresh_vars(rel)
    same = and_(*(Eq(x, a) for x, a in zip(xs, rel(*args).args, strict=True)))
    return Update(rel, xs, insert=same if when is None else and_(same, when))


def delete(rel: Rel, *args: Term, when: Formula | None = None) -> Update:
    """Remove one tuple (if *when* holds before the step).

    Raises:
        TypeError: wrong number or sorts of arguments.

    """
    xs = fresh_vars(rel)
    same = and_(*(Eq(x, a) for x, a in zip(xs, rel(*args).args, strict=True)))
    return Update(rel, xs, delete=same if when is None else and_(same, when))


def insert_where(rel: Rel, variables: tuple[Var, ...], condition: Formula) -> Update:
    """Add every tuple of *variables* of which *condition* holds."""
    return Update(rel, variables, insert=condition)


def delete_where(rel: Rel, variables: tuple[Var, ...], condition: Formula) -> Update:
    """Remove every tuple of *variables* of which *condition* holds."""
    return Update(rel, variables, delete=condition)


@dataclass(frozen=True)
class Action:
    """One atomic step.

    Attributes:
        name: identifier, for example ``bind.enter``.
        params: what the step is about.
        guards: conditions in the order in which the kernel tests them.
        updates: at most one per relation, all at once.
        actor: who takes the step.
        says: sentence for a trace; ``{x}`` stands for parameter x.

    """

    name: str
    params: tuple[Var, ...]
    guards: tuple[Guard, ...] = ()
    updates: tuple[Update, ...] = ()
    actor: Actor = Actor.KERNEL
    says: str = ""

    def __post_init__(self) -> None:
        known = set(self.params)
        if len({p.name for p in self.params}) != len(self.params):
            raise TypeError(f"{self.name}: two parameters of one name")
        for guard in self.guards:
            loose = free_vars(guard.condition) - known
            if loose:
                raise TypeError(f"{self.name}: guard {guard.name} leaves {_names(loose)} free")
        for update in self.updates:
            loose = free_vars(update.insert) | free_vars(update.delete)
            loose -= known | set(update.variables)
            if loose:
                raise TypeError(f"{self.name}: update of {update.rel.name}: {_names(loose)} free")
            hidden = known & set(update.variables)
            if hidden:
                # The update would speak of every tuple where its author meant the parameter.
                raise TypeError(
                    f"{self.name}: update of {update.rel.name} hides parameter {_names(hidden)}"
                )
        rels = [u.rel for u in self.updates]
        if len(set(rels)) != len(rels):
            raise TypeError(f"{self.name}: two updates of one relation; merge them")

    @property
    def guard(self) -> Formula:
        """All guards at once."""
        return and_(*(g.condition for g in self.guards))

    def update_of(self, rel: Rel) -> Update | None:
        """Return the update of *rel*, if the action has one."""
        return next((u for u in self.updates if u.rel == rel), None)

    def without_guard(self, name: str) -> Action:
        """Leave one guard out (every one of that name).

        Raises:
            KeyError: no such guard.

        """
        if all(g.name != name for g in self.guards):
            raise KeyError(f"{self.name} has no guard {name}")
        return replace(self, guards=tuple(g for g in self.guards if g.name != name))

    def without_update(self, rel: str) -> Action:
        """Leave the update of one relation out.

        Raises:
            KeyError: the action does not change that relation.

        """
        if all(u.rel.name != rel for u in self.updates):
            raise KeyError(f"{self.name} does not change {rel}")
        return replace(self, updates=tuple(u for u in self.updates if u.rel.name != rel))


def action(
    name: str,
    params: Iterable[Var],
    guards: Iterable[Guard] = (),
    updates: Iterable[Update] = (),
    actor: Actor = Actor.KERNEL,
    says: str = "",
) -> Action:
    """Build an action; several updates of one relation are merged."""
    merged: dict[Rel, Update] = {}
    for update in updates:
        known = merged.get(update.rel)
        merged[update.rel] = known.merged(update) if known else update
    return Action(name, tuple(params), tuple(guards), tuple(merged.values()), actor, says)


@dataclass(frozen=True)
class Module:
    """A part of a system: symbols, axioms, initial contents, actions.

    Attributes:
        name: what it models, for example ``container``.
        initial: initial content of a mutable relation as (variables, formula over statics);
            a relation that is not named starts empty.

    """

    name: str
    fns: tuple[Fn, ...] = ()
    rels: tuple[Rel, ...] = ()
    axioms: Mapping[str, Formula] = field(default_factory=dict)
    initial: Mapping[Rel, tuple[tuple[Var, ...], Formula]] = field(default_factory=dict)
    actions: tuple[Action, ...] = ()


@dataclass(frozen=True)
class System:
    """A closed transition system.

    Attributes:
        fns: all function symbols, constants included.
        rels: all relations; `module_of` tells which module brought each.
        axioms: closed formulas over static relations, by name.
        initial: initial content of mutable relations, as in `Module`.

    """

    name: str
    fns: tuple[Fn, ...]
    rels: tuple[Rel, ...]
    axioms: Mapping[str, Formula]
    initial: Mapping[Rel, tuple[tuple[Var, ...], Formula]]
    actions: tuple[Action, ...]
    module_of: Mapping[Rel, str]

    def __post_init__(self) -> None:
        known = set(self.rels)
        self._check_symbols()
        for name, axiom in self.axioms.items():
            if free_vars(axiom):
                raise TypeError(f"axiom {name} is not closed")
            moving = [r.name for r in relations(axiom) if r.kind is not Kind.STATIC]
            if moving:
                # Such an axiom silently disables every action that would break it.
                raise TypeError(f"axiom {name} constrains mutable relations: {', '.join(moving)}")
        for rel, (variables, formula) in self.initial.items():
            if rel not in known or rel.kind is Kind.STATIC:
                raise TypeError(f"initial content of {rel.name}, which is no mutable relation here")
            if tuple(v.sort for v in variables) != rel.sorts or len(set(variables)) != len(
                variables
            ):
                raise TypeError(f"initial content of {rel.name}: variables of the wrong sorts")
            loose = free_vars(formula) - set(variables)
            if loose:
                raise TypeError(f"initial content of {rel.name} leaves {_names(loose)} free")
            if any(r.kind is not Kind.STATIC for r in relations(formula)):
                raise TypeError(f"initial content of {rel.name} must be given by static relations")
        for act in self.actions:
            for guard in act.guards:
                ghosts = _ghosts(guard.condition)
                if ghosts and (guard.errno or act.actor is not Actor.USER):
                    # A user may know for whom it made a call; nothing else can act on it.
                    raise TypeError(f"{act.name}: guard {guard.name} reads ghost {ghosts[0]}")
            for update in act.updates:
                ghosts = _ghosts(update.insert) + _ghosts(update.delete)
                if ghosts and update.rel.kind is not Kind.GHOST:
                    raise TypeError(f"{act.name}: {update.rel.name} depends on ghost {ghosts[0]}")

    def _check_symbols(self) -> None:
        """Test that every symbol is declared and every action has its own name."""
        rels, fns = set(self.rels), set(self.fns)
        used = [(f"axiom {n}", a) for n, a in self.axioms.items()]
        used += [(f"initial content of {r.name}", f) for r, (_, f) in self.initial.items()]
        used += [(act.name, f) for act in self.actions for f in _formulas(act)]
        for where, formula in used:
            missing: list[Rel | Fn] = [*(relations(formula) - rels), *(functions(formula) - fns)]
            if missing:
                raise TypeError(f"{where} uses undeclared {_names(missing)}")
        names = [act.name for act in self.actions]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise TypeError(f"two actions are called {twice[0]}")

    @property
    def sorts(self) -> tuple[Sort, ...]:
        """Every sort that occurs, by name."""
        found = {s for r in self.rels for s in r.sorts}
        found |= {s for f in self.fns for s in (*f.sorts, f.result)}
        found |= {p.sort for a in self.actions for p in a.params}
        return tuple(sorted(found))

    def action(self, name: str) -> Action:
        """Return the action called *name*.

        Raises:
            KeyError: none is.

        """
        for act in self.actions:
            if act.name == name:
                return act
        raise KeyError(f"{self.name} has no action {name}")

    def rel(self, name: str) -> Rel:
        """Return the relation called *name*.

        Raises:
            KeyError: none is.

        """
        for rel in self.rels:
            if rel.name == name:
                return rel
        raise KeyError(f"{self.name} has no relation {name}")

    def with_action(self, changed: Action) -> System:
        """Exchange one action (found by its name).

        Raises:
            KeyError: no action has that name.

        """
        self.action(changed.name)
        new = tuple(changed if a.name == changed.name else a for a in self.actions)
        return replace(self, actions=new)

    def without_relations(self, dropped: frozenset[Rel]) -> System:
        """Forget relations: updates of them vanish, and so do guards that speak of them.

        The result allows every run of the original (guards only restrict), so what is proved of it
        holds of the original; a run of it must be replayed on the original. Actions that change
        nothing any more vanish too: in the result they would stutter.

        Raises:
            ValueError: another relation's new content depends on a dropped one.

        """
        actions = []
        for act in self.actions:
            updates = tuple(u for u in act.updates if u.rel not in dropped)
            for update in updates:
                lost = (relations(update.insert) | relations(update.delete)) & dropped
                if lost:
                    raise ValueError(f"{act.name}: {update.rel.name} depends on {_names(lost)}")
            guards = tuple(g for g in act.guards if not relations(g.condition) & dropped)
            if updates:
                actions.append(replace(act, guards=guards, updates=updates))
        return replace(
            self,
            rels=tuple(r for r in self.rels if r not in dropped),
            axioms={n: a for n, a in self.axioms.items() if not relations(a) & dropped},
            initial={r: i for r, i in self.initial.items() if r not in dropped},
            actions=tuple(actions),
            module_of={r: m for r, m in self.module_of.items() if r not in dropped},
        )


def compose(name: str, *modules: Module) -> System:
    """Put modules together.

    Actions of one name become one action: parameters must be the same, guards follow each other in
    the order of the modules, updates happen at once.

    Raises:
        TypeError: two modules declare one symbol, axiom or initial content differently, or
            disagree on the parameters of an action.

    """
    fns: dict[str, Fn] = {}
    rels: dict[str, Rel] = {}
    owner: dict[Rel, str] = {}
    axioms: dict[str, Formula] = {}
    initial: dict[Rel, tuple[tuple[Var, ...], Formula]] = {}
    actions: dict[str, Action] = {}
    for module in modules:
        for fn in module.fns:
            if fns.setdefault(fn.name, fn) != fn:
                raise TypeError(f"function {fn.name} is declared twice, differently")
        for rel in module.rels:
            if rels.setdefault(rel.name, rel) != rel:
                raise TypeError(f"relation {rel.name} is declared twice, differently")
            owner.setdefault(rel, module.name)
        for label, axiom in module.axioms.items():
            if axioms.setdefault(label, axiom) != axiom:
                raise TypeError(f"axiom {label} is declared twice, differently")
        for rel, content in module.initial.items():
            if initial.setdefault(rel, content) != content:
                raise TypeError(f"initial content of {rel.name} is given twice, differently")
        for act in module.actions:
            known = actions.get(act.name)
            actions[act.name] = _together(known, act) if known else act
    return System(
        name, tuple(fns.values()), tuple(rels.values()), axioms, initial,
        tuple(actions.values()), owner,
    )


def _together(first: Action, second: Action) -> Action:
    if first.params != second.params:
        raise TypeError(f"{first.name}: modules disagree on its parameters")
    return action(
        first.name, first.params, (*first.guards, *second.guards),
        (*first.updates, *second.updates), first.actor, first.says or second.says,
    )


def _formulas(act: Action) -> list[Formula]:
    found = [g.condition for g in act.guards]
    for update in act.updates:
        found += [Atom(update.rel, update.variables), update.insert, update.delete]
    return found


def _ghosts(formula: Formula) -> list[str]:
    return sorted(r.name for r in relations(formula) if r.kind is Kind.GHOST)


def _names(items: Iterable[Var | Rel | Fn]) -> str:
    return ", ".join(sorted(i.name for i in items))


def weakest_precondition(act: Action, formula: Formula) -> Formula:
    """Return what must hold before *act* (guards apart) so that *formula* holds after it.

    A variable that is free in *formula* and a parameter of *act* means the parameter; name the free
    variables of a claim about all objects differently.

    Raises:
        ValueError: a variable that *formula* binds is a parameter of *act*, or is bound in an
            update too.

    """
    match formula:
        case Atom(rel, args):
            update = act.update_of(rel)
            return update.after(args) if update else formula
        case Not(body):
            return not_(weakest_precondition(act, body))
        case And(parts):
            return and_(*(weakest_precondition(act, p) for p in parts))
        case Or(parts):
            return or_(*(weakest_precondition(act, p) for p in parts))
        case Quantified(universal, variables, body):
            clash = set(variables) & set(act.params)
            if clash:
                raise ValueError(f"{act.name}: {_names(clash)} is a parameter and bound")
            inner = weakest_precondition(act, body)
            return inner if isinstance(inner, Truth) else Quantified(universal, variables, inner)
    return formula


def initially(system: System, formula: Formula) -> Formula:
    """Return *formula* with every mutable relation replaced by its initial content.

    Raises:
        ValueError: *formula* binds a variable that an initial content binds too.

    """
    match formula:
        case Atom(rel, args) if rel.kind is not Kind.STATIC:
            if rel not in system.initial:
                return FALSE
            variables, content = system.initial[rel]
            return substitute(content, dict(zip(variables, args, strict=True)))
        case Not(body):
            return not_(initially(system, body))
        case And(parts):
            return and_(*(initially(system, p) for p in parts))
        case Or(parts):
            return or_(*(initially(system, p) for p in parts))
        case Quantified(universal, variables, body):
            inner = initially(system, body)
            return inner if isinstance(inner, Truth) else Quantified(universal, variables, inner)
    return formula
