/**
 * Dates of the proleptic Gregorian calendar in UTC, as plain arithmetic.
 *
 * The day arithmetic is the usual one on 400-year eras that begin in March, so that the leap day is the last of its year.
 */

/** A day, `month` and `day` counted from 1. */
export interface CivilDate {
  readonly year: number
  readonly month: number
  readonly day: number
}

/** Milliseconds of one day. */
export const dayMillis = 86_400_000

/** Days from 1970-01-01 to a date. */
export const toDays = (year: number, month: number, day: number): number => {
  const shifted = month <= 2 ? year - 1 : year
  const era = Math.floor(shifted / 400)
  const yearOfEra = shifted - era * 400
  const dayOfYear = Math.floor((153 * ((month + 9) % 12) + 2) / 5) + day - 1
  return era * 146_097 + yearOfEra * 365 + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100) + dayOfYear - 719_468
}

/** The date that lies this many days after 1970-01-01. */
export const fromDays = (days: number): CivilDate => {
  const shifted = days + 719_468
  const era = Math.floor(shifted / 146_097)
  const dayOfEra = shifted - era * 146_097
  const yearOfEra = Math.floor(
    (dayOfEra - Math.floor(dayOfEra / 1460) + Math.floor(dayOfEra / 36_524) - Math.floor(dayOfEra / 146_096)) / 365
  )
  const dayOfYear = dayOfEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100))
  const shiftedMonth = Math.floor((5 * dayOfYear + 2) / 153)
  const month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9
  return {
    year: yearOfEra + era * 400 + (month <= 2 ? 1 : 0),
    month,
    day: dayOfYear - Math.floor((153 * shiftedMonth + 2) / 5) + 1
  }
}

/** The date of an instant in epoch milliseconds. */
export const fromMillis = (millis: number): CivilDate => fromDays(Math.floor(millis / dayMillis))

/** The first instant of a month, in epoch milliseconds; months past December run into the next year. */
export const monthStart = (year: number, month: number): number =>
  toDays(year + Math.floor((month - 1) / 12), ((month - 1) % 12) + 1, 1) * dayMillis

const twoDigits = Array.from({ length: 100 }, (_, value) => String(value).padStart(2, "0"))

/** A number below 100 with two digits. */
export const pad = (value: number): string => twoDigits[value] ?? String(value)

// Games come in order, so the same day is asked for many times in a row.
let lastDay = Number.NaN
let lastText = ""

/** The date as PGN writes it: `2026.09.15`. */
export const dateTag = (millis: number): string => {
  const day = Math.floor(millis / dayMillis)
  if (day !== lastDay) {
    const date = fromDays(day)
    lastDay = day
    lastText = `${date.year}.${pad(date.month)}.${pad(date.day)}`
  }
  return lastText
}

/** The time of day as PGN writes it: `12:34:56`. */
export const timeTag = (millis: number): string => {
  const seconds = Math.floor((millis - Math.floor(millis / dayMillis) * dayMillis) / 1000)
  return `${pad(Math.floor(seconds / 3600))}:${pad(Math.floor(seconds / 60) % 60)}:${pad(seconds % 60)}`
}

const weekdays = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"]
const months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

/** The instant as HTTP's `Date` header writes it. */
export const httpDate = (millis: number): string => {
  const days = Math.floor(millis / dayMillis)
  const date = fromDays(days)
  const weekday = weekdays[((days % 7) + 7) % 7]
  return `${weekday}, ${pad(date.day)} ${months[date.month - 1]} ${date.year} ${timeTag(millis)} GMT`
}
